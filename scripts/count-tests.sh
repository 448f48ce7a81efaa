#!/usr/bin/env bash
# count-tests.sh LOG…: reads the outputs of test runners (cargo test, node --test, vitest), prints a line for each, and at
# last `N passed, M failed` over all. Fails if a test failed, a runner broke, or a runner ran nothing.
set -euo pipefail

[ $# -gt 0 ] || { echo '0 passed, 0 failed'; exit 1; }

passed_all=0 failed_all=0
for log in "$@"; do
  # Colours off; then the sums over every summary line that one of the runners prints.
  read -r passed failed status < <(sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
    BEGIN { status = "none" }                                                 # the runner was ended before it could say
    /^test result: / { passed += $4; failed += $6 }                           # cargo: ok. 3 passed; 0 failed; …
    /^(#|ℹ) pass [0-9]+$/ { passed += $3 }                                    # node: a line for each outcome
    /^(#|ℹ) (fail|cancelled) [0-9]+$/ { failed += $3 }
    /^ +Tests  .*\([0-9]+\)$/ {                                               # vitest: Tests  1 failed | 2 passed (3)
      for (i = 2; i < NF; i++) { if ($(i + 1) == "passed") passed += $i; if ($(i + 1) == "failed") failed += $i }
    }
    /^exit status of the runner: [0-9]+$/ { status = $NF }
    END { print passed + 0, failed + 0, status }')
  note=''
  if [ "$failed" -eq 0 ] && [ "$status" != 0 ]; then
    failed=1 note=" (the runner broke, exit status $status)"
  elif [ "$passed" -eq 0 ] && [ "$failed" -eq 0 ]; then
    failed=1 note=' (it ran no test)'
  fi
  printf '%s: %d passed, %d failed%s\n' "$(basename "$log" .log)" "$passed" "$failed" "$note"
  passed_all=$((passed_all + passed)) failed_all=$((failed_all + failed))
done
printf '%d passed, %d failed\n' "$passed_all" "$failed_all"
[ "$failed_all" -eq 0 ]
