#!/bin/sh
# Fetches the ClickHouse engine that central loads, from the npm registry, verified, into a cache folder. Prints nothing
# and takes no time when it is there.
set -eu

version=26.7.3-stable.1
tarball_sha256=c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad
library_sha256=36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5

cache=${TIDELINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tideline}
folder=$cache/libchdb-$version

# The library gets its name only after its hash was found right (see the end), so its presence is enough.
[ -f "$folder/libchdb.so" ] && exit 0

fail() {
  echo "fetch-libchdb: $*" >&2
  exit 1
}

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) ;;
  *) fail "there is a pinned engine for Linux on x86-64 only; this is $(uname -s) on $(uname -m)" ;;
esac
command -v npm >/dev/null || fail "npm is needed to fetch the engine: install Node.js 20 or newer"

mkdir -p "$folder" || fail "cannot write to $cache: set TIDELINE_CACHE to a folder that can be written"
work=$(mktemp -d "$folder/fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

is() {
  [ "$(sha256sum "$2" | cut -d ' ' -f 1)" = "$1" ]
}

echo "fetch-libchdb: fetching the engine (libchdb $version, about 200 MB) into $folder"
(cd "$work" && npm pack --silent "@chdb/lib-linux-x64-gnu@$version" >/dev/null) ||
  fail "npm could not fetch @chdb/lib-linux-x64-gnu@$version: check the network and the npm registry, then try again"
set -- "$work"/*.tgz
is "$tarball_sha256" "$1" || fail "the package's SHA-256 is not $tarball_sha256: it is not the release this build expects"
tar -xzf "$1" -C "$work" package/libchdb.so || fail "the package cannot be unpacked: is the disk full?"
is "$library_sha256" "$work/package/libchdb.so" || fail "the library's SHA-256 is not $library_sha256"
chmod 644 "$work/package/libchdb.so"
sync "$work/package/libchdb.so"
mv "$work/package/libchdb.so" "$folder/libchdb.so"
echo "fetch-libchdb: done"
