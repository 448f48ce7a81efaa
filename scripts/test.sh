#!/usr/bin/env bash
# Runs every test runner, each to its end whatever the others say. Their outputs stay in target/tests/; the last line is
# the count over all of them. `make test` builds what the tests need and calls this.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
logs="$target/tests"
export NO_COLOR=1 CI="${CI:-1}"
# A runner that hangs is ended, and fails.
limit_s=2600

main() {
  rm -rf "$logs" && mkdir -p "$logs"
  # The tests of real processes wait more than they compute: three at a time use two cores better than two.
  runner rust . env RUST_TEST_THREADS="${RUST_TEST_THREADS:-3}" cargo test --workspace --exclude simulation --locked --no-fail-fast
  runner simulation . cargo test -p simulation --locked --no-fail-fast
  runner newer-redis . scripts/test-newer-redis.sh
  runner agent wasm-agent npm test --silent
  runner dashboard dashboard npm test --silent
  [ ! -f tests/browser/package.json ] || runner browser tests/browser npm test --silent
  scripts/count-tests.sh "$logs"/*.log
}

# runner NAME FOLDER COMMAND…
runner() {
  local name="$1" folder="$2" status=0
  shift 2
  printf '==> tests: %s\n' "$name"
  (cd "$folder" && timeout --kill-after=20 "$limit_s" "$@") 2>&1 | tee "$logs/$name.log" || status=$?
  # Read by count-tests.sh: a runner that broke without naming a test counts as one failure.
  printf '\nexit status of the runner: %s\n' "$status" >>"$logs/$name.log"
}

main
