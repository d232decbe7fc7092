#!/bin/bash
# Licences, duplicate crates and sources always; advisories when their database can be reached.
# cargo-deny is compiled once (two minutes on two cores) and kept in ~/.cache/hark/tools; HARK_INSTALL_DENY=0 does without it.
# What cannot be installed or reached fails nothing, but is said.
set -euo pipefail
[ -f deny.toml ] || exit 0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hark
export PATH=$cache/tools/bin:$PATH

# unchecked WHAT WHY
unchecked() { printf '\nlint: **** NOT CHECKED: %s ****\nlint: %s\n\n' "$1" "$2" >&2; exit 0; }

install() {
  mkdir -p "$cache/tools"
  # another clone may be at it
  exec 9>"$cache/tools/.lock"
  flock 9
  command -v cargo-deny >/dev/null && return
  echo "lint: installing cargo-deny with cargo into $cache/tools (some minutes, once)" >&2
  local done=0
  # half the time, for a program that is as good unoptimised
  export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
  CARGO_TARGET_DIR=$cache/tools-target cargo install --quiet --locked --root "$cache/tools" cargo-deny || done=$?
  rm -rf "$cache/tools-target"
  return $done
}

if ! command -v cargo-deny >/dev/null; then
  [ "${HARK_INSTALL_DENY:-1}" != 0 ] || unchecked "licences and advisories" "cargo-deny is not installed, and HARK_INSTALL_DENY is 0"
  (install) || unchecked "licences and advisories" "cargo-deny could not be installed (see above); cargo install --locked cargo-deny by hand"
fi
# the list of crates names some that are not built here
cargo fetch --locked --quiet
cargo deny --locked --offline check --hide-inclusion-graph licenses bans sources
if ! cargo deny --locked fetch db >/dev/null 2>&1; then
  unchecked "advisories (licences are fine)" "the database of advisories is out of reach from here"
fi
cargo deny --locked check advisories
