#!/usr/bin/env bash
# Runs h2spec, strict cases included, against the gateway's listener (gateway/examples/listener.rs): without TLS, where a client
# begins with HTTP/2 because it knows, and with TLS. Prints each case that failed and the sums; ends with 1 if one failed that
# was not expected to.
set -euo pipefail
cd "$(dirname "$0")/.."

h2spec=$(scripts/fetch-h2spec.sh | tail -1)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
report=$target/h2spec
# As many as h2spec has: a server with which they cannot be run must not pass.
cases=146
# What does not begin as HTTP/2 does is HTTP/1 on this port: it is answered with 400 in HTTP/1 before the connection is closed,
# and h2spec takes that text for a frame which is cut off.
expected_without_tls='× 2: Sends invalid connection preface'

main() {
  cargo build --locked --quiet -p gateway --example listener
  rm -rf "$report" && mkdir -p "$report" && : >"$report/server.log"
  "$target/debug/examples/listener" 127.0.0.1:0 127.0.0.1:0 >"$report/server.log" 2>&1 &
  server=$!
  trap 'kill "$server"' EXIT
  local ports='' status=0
  for _ in {1..100}; do
    ports=$(sed -n 's/^listening on [^ ]*:\([0-9]*\) and with TLS on [^ ]*:\([0-9]*\)$/\1 \2/p' "$report/server.log")
    [ -z "$ports" ] || break
    sleep 0.1
  done
  [ -n "$ports" ] || { echo 'test-h2spec: the server did not start:' >&2; cat "$report/server.log" >&2; exit 1; }
  run 'without TLS' "$expected_without_tls" --port "${ports% *}" || status=1
  run 'with TLS' '' --port "${ports#* }" --tls --insecure || status=1
  exit "$status"
}

# run NAME EXPECTED-FAILURE FLAG…: a case fails that fails in each of five runs. An answer that is complete before the last frame
# of a case has come ends the stream, as HTTP/2 allows, and h2spec then waits in vain for an error: that is chance.
run() {
  local name="$1" expected="$2" try log ran failed again
  shift 2
  for try in 1 2 3 4 5; do
    log="$report/${name// /-}-$try.log"
    # Most cases need an answer with a body, so they ask for a file that a page loads. Those of section 8 are of requests whose
    # body is malformed: they go where bodies are read to their end.
    spec --path /tideline.js "$@" generic hpack http2/{3,4,5,6,7} >"$log"
    spec --path /v1/batch "$@" http2/8 >>"$log"
    ran=$(grep -E '^[0-9]+ tests, ' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    [ "$ran" = "$cases" ] || { echo "$name: $ran cases were run, and h2spec has $cases"; tail -5 "$log"; return 1; }
    # A failed case is named twice: where it ran, and under `Failures:`.
    again=$(sed '/^Failures:/,/^Finished/d' "$log" | grep -o '× .*' | sort || true)
    [ "$try" = 1 ] && failed=$again || failed=$(comm -12 <(echo "$failed") <(echo "$again"))
    [ "$failed" != "$expected" ] || break
  done
  sed -n '/^Failures:/,/^Finished/{/^Finished/!p}' "$log"
  echo "$name: $ran cases, $((ran - $(grep -c . <<<"$failed" || true))) passed (runs: $try)"
  [ "$failed" = "$expected" ] || { echo "$name: expected to fail: ${expected:-none}"; return 1; }
}

# Whether a case failed is read from what it prints.
spec() {
  timeout --kill-after=20 600 "$h2spec" --host 127.0.0.1 --strict --timeout 5 "$@" 2>&1 || true
}

main
