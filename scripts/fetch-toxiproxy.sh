#!/usr/bin/env bash
# Builds toxiproxy, with which the tests make networks slow, silent or short, from the Go module proxy into a cache folder; Go
# verifies it against the checksum database. Prints the program's path, and nothing else when it is there already.
set -euo pipefail

version=v2.12.0
cache=${TIDELINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tideline}
folder=$cache/toxiproxy-$version

if [ ! -x "$folder/toxiproxy-server" ]; then
  # Where Go's own archive puts it, for shells that have not read its profile.
  export PATH="$PATH:/usr/local/go/bin"
  command -v go >/dev/null || { echo 'fetch-toxiproxy: Go is needed to build toxiproxy: install it (https://go.dev/dl)' >&2; exit 1; }
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/building.XXXXXX")
  trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
  echo "fetch-toxiproxy: building toxiproxy $version into $folder" >&2
  GOBIN=$work go install "github.com/Shopify/toxiproxy/v2/cmd/server@$version" >&2
  mv "$work/server" "$folder/toxiproxy-server"
fi
echo "$folder/toxiproxy-server"
