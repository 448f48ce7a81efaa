#!/usr/bin/env bash
# Builds h2spec, which tests whether a server keeps to HTTP/2, from the Go module proxy into a cache folder; Go verifies it against the
# checksum database. Prints the program's path, and nothing else when it is there already.
set -euo pipefail

version=v2.2.1
cache=${TIDELINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tideline}
folder=$cache/h2spec-$version

if [ ! -x "$folder/h2spec" ]; then
  # Where Go's own archive puts it, for shells that have not read its profile.
  export PATH="$PATH:/usr/local/go/bin"
  command -v go >/dev/null || { echo 'fetch-h2spec: Go is needed to build h2spec: install it (https://go.dev/dl)' >&2; exit 1; }
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetch-h2spec: building h2spec $version into $folder" >&2
  # It is older than Go's modules and names no versions of what it is built on: they are pinned here.
  cat >"$work/go.mod" <<MOD
module pinned
go 1.23.0
require (
	github.com/summerwind/h2spec $version+incompatible
	github.com/fatih/color v1.18.0
	github.com/spf13/cobra v1.8.1
	golang.org/x/net v0.33.0
)
MOD
  (cd "$work" && go build -mod=mod -o h2spec github.com/summerwind/h2spec/cmd/h2spec) >&2
  mv "$work/h2spec" "$folder/h2spec"
fi
echo "$folder/h2spec"
