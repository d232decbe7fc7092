#!/bin/bash
# Licences, duplicate crates and sources always; advisories when their database can be reached.
# Compiling cargo-deny takes minutes, so it is used where it is installed and installed only on HARK_INSTALL_DENY=1.
set -euo pipefail
[ -f deny.toml ] || exit 0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hark
if ! command -v cargo-deny >/dev/null 2>&1; then
  if [ "${HARK_INSTALL_DENY:-}" != 1 ]; then
    echo "lint: cargo-deny is not installed, licences and advisories not checked (HARK_INSTALL_DENY=1 installs it)" >&2
    exit 0
  fi
  echo "lint: installing cargo-deny into $cache/tools (some minutes, once)" >&2
  CARGO_TARGET_DIR=$cache/tools-target cargo install --quiet --locked --root "$cache/tools" cargo-deny
  rm -rf "$cache/tools-target"
fi
cargo deny --locked --offline check --hide-inclusion-graph licenses bans sources
if ! cargo deny --locked fetch db >/dev/null 2>&1; then
  echo "lint: the advisory database is out of reach, advisories not checked" >&2
  exit 0
fi
cargo deny --locked check advisories
