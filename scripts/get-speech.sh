#!/bin/bash
# Fetch recorded human speech for the tests of what must not be taken for a DTMF digit, of voice activity and of gain: Asterisk's prompts
# from Debian packages (five languages, 8 kHz, CC BY-SA 3.0), unpacked without root.
#   get-speech.sh [DIRECTORY]     default ~/.cache/hark/speech
set -euo pipefail
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hark/speech}
languages="en es fr it ru"
[ -d "$directory" ] && exit 0

for program in apt-get dpkg-deb flock; do
  command -v $program >/dev/null || { echo "get-speech: $program is missing; this needs a Debian or Ubuntu host" >&2; exit 1; }
done
mkdir -p "$(dirname "$directory")"
exec 9>"$directory.lock"
flock 9
[ -d "$directory" ] && exit 0                         # another run was faster

work=$(mktemp -d "$directory.part.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
echo "get-speech: fetching recorded speech (60 MB, once) into $directory" >&2
# shellcheck disable=SC2086,SC2046
(cd "$work" && apt-get -q -o APT::Sandbox::User= download $(printf 'asterisk-core-sounds-%s-wav ' $languages)) >"$work/log" 2>&1 ||
  { tail -5 "$work/log" >&2; echo "get-speech: failed; perhaps apt-get update has never been run here" >&2; exit 1; }
for deb in "$work"/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --no-same-owner --strip-components=5 --wildcards '*.wav'
done
mv "$work/root" "$directory"                          # whole or not at all
echo "get-speech: $(du -sh "$directory" | cut -f1) in $directory" >&2
