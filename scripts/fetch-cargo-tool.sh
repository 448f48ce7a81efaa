#!/usr/bin/env bash
# Builds a tool of cargo's, pinned, from crates.io into a cache folder. Prints the folder that its program is in, and nothing else when it
# is there already.
#   scripts/fetch-cargo-tool.sh cargo-deny|cargo-fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

tool=${1-}
case "$tool" in
  cargo-deny) version=0.20.2 ;;
  cargo-fuzz) version=0.13.2 ;;
  *) echo 'usage: scripts/fetch-cargo-tool.sh cargo-deny|cargo-fuzz' >&2; exit 1 ;;
esac

cache=${TIDELINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tideline}
folder=$cache/$tool-$version

if [ ! -x "$folder/bin/$tool" ]; then
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetch-cargo-tool: building $tool $version into $folder" >&2
  # It looks at our files for a second, so what counts is how long it builds.
  CARGO_TARGET_DIR=$work/target CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 CARGO_PROFILE_RELEASE_DEBUG=false \
    cargo install --quiet --locked --no-default-features --version "$version" --root "$work" "$tool" >&2
  mkdir -p "$folder/bin"
  mv "$work/bin/$tool" "$folder/bin/$tool"
fi
echo "$folder/bin"
