#!/usr/bin/env bash
# Fuzzes each target, or one, for so many seconds. Starts from fuzz/corpus and from what earlier runs found, which is kept beside the build;
# ends with the input that broke a law, if one did.
#   scripts/fuzz.sh SECONDS [TARGET]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET]}
only=${2-}
build=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
[ -z "$only" ] || [ -d "fuzz/corpus/$only" ] ||
  { echo "fuzz: there is no target $only: $(ls fuzz/corpus | tr '\n' ' ')" >&2; exit 1; }

PATH="$(scripts/fetch-cargo-tool.sh cargo-fuzz | tail -1):$PATH"
# The log's target writes a segment for every input: into memory, where there is such a folder.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm

for target in ${only:-$(ls fuzz/corpus)}; do
  printf '==> fuzz: %s, %s s\n' "$target" "$seconds"
  mkdir -p "$build/found/$target" "$build/broken/$target"
  # Sanitizers need a nightly compiler; what they look for is unsafe code, and there is next to none. Overflows and debug assertions are on.
  cargo fuzz run --fuzz-dir fuzz --sanitizer none --target-dir "$build" "$target" "$build/found/$target" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$build/broken/$target/"
done
