#!/usr/bin/env bash
# Builds dist/: tideline.js (the script of the page), tideline.wasm (the core) and tideline-core.js (the same core for pages
# whose policy forbids WebAssembly). Prints their sizes. Does nothing if nothing changed.
set -euo pipefail
cd "$(dirname "$0")"

if ! [ node_modules/.package-lock.json -nt package-lock.json ]; then
  echo "agent: npm parts"
  npm ci --no-audit --no-fund --loglevel=error
fi

target_folder="${CARGO_TARGET_DIR:-../target}"
sources="$(cat package-lock.json build.sh sizes.mjs js/*.js ../rust-toolchain.toml ../Cargo.toml \
  $(find core/src core/Cargo.toml wasm/src wasm/Cargo.toml ../proto/src ../proto/Cargo.toml -type f | LC_ALL=C sort) | sha256sum)"
if [ "$(cat dist/.sources 2>/dev/null)" != "$sources" ]; then
  # What every browser since 2021 has.
  features=(--enable-bulk-memory --enable-bulk-memory-opt --enable-sign-ext --enable-mutable-globals)

  echo "agent: core"
  # A plain toolchain has no targets of its own to add to.
  if ! [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then
    rustup target add wasm32-unknown-unknown || {
      echo "agent: this Rust has no target wasm32-unknown-unknown and no rustup to add it: install Rust by rustup" >&2
      exit 1
    }
  fi
  # A stack of 16 KiB instead of 1 MiB: everything large is static. wasm2js has no saturating conversion to i64.
  CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C link-arg=-zstack-size=16384 -C target-feature=-nontrapping-fptoint" \
    cargo build --quiet -p agent-wasm --profile agent --target wasm32-unknown-unknown
  rm -rf dist.new && mkdir dist.new
  built="$target_folder/wasm32-unknown-unknown/agent/agent_wasm.wasm"
  node_modules/.bin/wasm-opt -Oz --converge "${features[@]}" --strip-producers --strip-target-features \
    "$built" -o dist.new/tideline.wasm

  echo "agent: script"
  bundle() { node_modules/.bin/esbuild --log-level=warning --bundle --minify --target=es2020 --format=iife "$@"; }
  bundle js/tideline.js --outfile=dist.new/tideline.js
  work="$(mktemp -d)" && trap 'rm -rf "$work"' EXIT
  node_modules/.bin/wasm2js -Oz "${features[@]}" dist.new/tideline.wasm -o "$work/core.mjs" >"$work/log" || { tail -3 "$work/log" >&2; exit 1; }
  printf 'import * as core from "./core.mjs"; window.tideline.core = core;\n' > "$work/tideline-core.mjs"
  bundle "$work/tideline-core.mjs" --outfile=dist.new/tideline-core.js
  printf '%s' "$sources" > dist.new/.sources
  rm -rf dist && mv dist.new dist
fi
node sizes.mjs dist
