#!/usr/bin/env bash
# Runs the Autobahn test suite against the gateway's WebSocket (gateway/examples/websocket_echo.rs). Prints what the cases came to, and ends
# with 1 if one failed; its report stays in target/autobahn/index.html.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$(scripts/fetch-autobahn.sh | tail -1)
target=$(realpath "${CARGO_TARGET_DIR:-target}")
report=$target/autobahn
cargo build --locked --release --quiet -p gateway --example websocket_echo

rm -rf "$report" && mkdir -p "$report" && : >"$report/server.log"
"$target/release/examples/websocket_echo" 127.0.0.1:0 >"$report/server.log" 2>&1 &
server=$!
trap 'kill "$server"' EXIT
for _ in {1..100}; do
  address=$(sed -n 's/^listening on //p' "$report/server.log")
  [ -z "$address" ] || break
  sleep 0.1
done
[ -n "$address" ] || { echo 'test-autobahn: the server did not start:' >&2; cat "$report/server.log" >&2; exit 1; }

cat >"$report/client.json" <<JSON
{
  "outdir": "$report",
  "servers": [{ "agent": "gateway", "url": "ws://$address" }],
  "cases": ["*"],
  "exclude-cases": [],
  "exclude-agent-cases": {}
}
JSON
(cd "$report" && timeout --kill-after=20 1800 "$suite" --mode fuzzingclient --spec client.json >client.log 2>&1) ||
  { echo 'test-autobahn: the suite broke:' >&2; tail -20 "$report/client.log" >&2; exit 1; }

python3 - "$report/index.json" <<'PYTHON'
import collections, json, sys

cases = json.load(open(sys.argv[1]))["gateway"]
# 9.8 has six cases, 12.1 before 12.2: by number, not by letter.
by_number = lambda case: [int(part) for part in case.split(".")]
behaviours = collections.defaultdict(list)
for case in sorted(cases, key=by_number):
    behaviours[cases[case]["behavior"]].append(case)
# How the connection was closed is judged by itself.
unclean = [case for case in cases if cases[case]["behaviorClose"] not in ("OK", "INFORMATIONAL", "UNIMPLEMENTED")]
# Compression (12 and 13) is an extension that the gateway does not offer.
unexpected = [case for case in behaviours.pop("UNIMPLEMENTED", []) if by_number(case)[0] not in (12, 13)]
compression = sum(by_number(case)[0] in (12, 13) for case in cases)

print(f"{len(cases)} cases, {compression} of them of compression, which is not offered")
for behaviour in ("OK", "NON-STRICT", "INFORMATIONAL"):
    listed = behaviours.pop(behaviour, [])
    print(f"{behaviour}: {len(listed)}" + ("" if behaviour == "OK" else f" ({', '.join(listed)})"))
failed = sorted({case for rest in behaviours.values() for case in rest} | {*unclean, *unexpected}, key=by_number)
print(f"failed: {len(failed)}" + (f" ({', '.join(failed)})" if failed else ""))
if len(cases) < 500:
    sys.exit(f"the suite has more than 500 cases, and only {len(cases)} were run")
sys.exit(bool(failed))
PYTHON
