#!/usr/bin/env bash
# Installs what this machine lacks to build Tideline (`machine.sh build`) or to test it as well (`machine.sh test`).
# Only Debian's packages need root, and sudo is used for nothing else. Says nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
  debian_packages "$1"
  rust
  node
  if [ "$1" = test ]; then go_toolchain; fi
}

fail() {
  printf 'machine: %s\n' "$*" >&2
  exit 1
}

debian_packages() {
  local wanted=()
  command -v cc >/dev/null || wanted+=(build-essential)
  command -v redis-server >/dev/null || wanted+=(redis-server)
  [ -s /etc/ssl/certs/ca-certificates.crt ] || wanted+=(ca-certificates)
  if [ "$1" = test ]; then
    command -v strace >/dev/null || wanted+=(strace)
    command -v chromium >/dev/null || wanted+=(chromium)
    command -v firefox-esr >/dev/null || wanted+=(firefox-esr)
    command -v pip >/dev/null || wanted+=(python3-pip)
    # Debian keeps it in /usr/sbin, which a user's PATH may lack.
    command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || wanted+=(haproxy)
  fi
  [ ${#wanted[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "this machine lacks ${wanted[*]} and has no apt-get: install what these Debian packages hold"
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "installing ${wanted[*]} needs root, and there is no sudo: run 'apt-get install ${wanted[*]}' as root, then make again"
    root=(sudo)
  fi
  printf '==> Debian packages: %s\n' "${wanted[*]}"
  "${root[@]}" apt-get update -q -o=Dpkg::Use-Pty=0
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends -o=Dpkg::Use-Pty=0 "${wanted[@]}"
}

# The toolchain of rust-toolchain.toml with its parts; rustup may have been told not to fetch it by itself.
rust() {
  command -v cargo >/dev/null || fail "there is no cargo: install Rust with https://rustup.rs"
  local channel target=wasm32-unknown-unknown
  channel="$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)"
  if ! command -v rustup >/dev/null; then
    local version
    version="$(rustc --version | cut -d ' ' -f 2)"
    at_least "$channel" "$version" ||
      fail "Rust $version is too old: $channel or newer is needed; https://rustup.rs installs it"
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] ||
      fail "this Rust lacks the target $target: install it, or Rust with https://rustup.rs, which can add it"
    return
  fi
  if ! rustup run "$channel" rustc --version >/dev/null 2>&1; then
    printf '==> Rust %s\n' "$channel"
    rustup toolchain install "$channel" --profile minimal --no-self-update
  fi
  local installed
  installed="$(rustup component list --toolchain "$channel" --installed)"
  for part in rustfmt clippy; do
    grep -q "^$part" <<<"$installed" || rustup component add --toolchain "$channel" "$part"
  done
  if ! grep -q "^rust-std-$target" <<<"$installed"; then
    printf '==> Rust target %s\n' "$target"
    rustup target add --toolchain "$channel" "$target"
  fi
}

# Builds the proxy that makes the tests' networks bad.
go_toolchain() {
  PATH="$PATH:/usr/local/go/bin" command -v go >/dev/null ||
    fail "there is no Go, which the tests of bad networks need: install 1.23 or newer from https://go.dev/dl"
}

# Of Vite, which builds the dashboard.
node() {
  local wanted="version 20.19 or a later 20, or 22.12 or newer" version
  command -v npm >/dev/null || fail "there is no Node.js with npm: install $wanted"
  version="$(command node --version)"
  version="${version#v}"
  if at_least 22.12 "$version"; then return; fi
  if [ "${version%%.*}" = 20 ] && at_least 20.19 "$version"; then return; fi
  fail "Node.js $version does not build the dashboard: install $wanted"
}

# Whether the second version is the first or newer.
at_least() {
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]
}

[ "${1-}" = build ] || [ "${1-}" = test ] || fail "usage: scripts/machine.sh build|test"
main "$1"
