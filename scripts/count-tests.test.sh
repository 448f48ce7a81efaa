#!/usr/bin/env bash
# Proves that count-tests.sh counts what each runner says.
set -euo pipefail
cd "$(dirname "$0")"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# expect LINE STATUS TEXT…: the last line and exit status for runners that printed these texts.
expect() {
  local line="$1" status="$2" n=0 got got_status=0
  shift 2
  rm -f "$folder"/*
  for text in "$@"; do printf '%b' "$text" >"$folder/$((n += 1)).log"; done
  got="$(./count-tests.sh "$folder"/*.log | tail -1)" || got_status=$?
  if [ "$got" != "$line" ] || [ "$got_status" != "$status" ]; then
    printf 'count-tests: expected "%s" (%s), got "%s" (%s) for:\n%b\n' "$line" "$status" "$got" "$got_status" "$*" >&2
    exit 1
  fi
}

done_well='\nexit status of the runner: 0\n'
done_badly='\nexit status of the runner: 1\n'
cargo='test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.53s\n'
cargo_failed='test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n'
tap='# tests 9\n# suites 0\n# pass 7\n# fail 1\n# cancelled 1\n# skipped 0\n'
spec='ℹ tests 5\nℹ pass 5\nℹ fail 0\nℹ cancelled 0\n'
vitest=' Test Files  3 passed (3)\n      Tests  31 passed (31)\n'
vitest_failed=' Test Files  1 failed | 2 passed (3)\n\x1b[2m      Tests \x1b[22m \x1b[31m2 failed\x1b[39m | \x1b[32m29 passed\x1b[39m (31)\n'

expect '40 passed, 0 failed' 0 "$cargo$done_well"
expect '43 passed, 2 failed' 1 "$cargo$cargo_failed\nexit status of the runner: 101\n"
expect '7 passed, 2 failed' 1 "$tap$done_badly"
expect '5 passed, 0 failed' 0 "$spec$done_well"
expect '31 passed, 0 failed' 0 "$vitest$done_well"
expect '29 passed, 2 failed' 1 "$vitest_failed$done_badly"
expect '76 passed, 0 failed' 0 "$cargo$done_well" "$spec$done_well" "$vitest$done_well"
expect '40 passed, 1 failed' 1 "$cargo$done_well" "error: could not compile\nexit status of the runner: 101\n"
expect '40 passed, 1 failed' 1 "$cargo\nexit status of the runner: 124\n"
expect '40 passed, 1 failed' 1 "$cargo"
expect '40 passed, 1 failed' 1 "$cargo$done_well" "test result: ok. 0 passed; 0 failed;\n$done_well"
