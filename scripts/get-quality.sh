#!/bin/bash
# Fetch what `make quality` needs beside recorded speech: the text of Asterisk's English prompts (CC BY-SA 3.0) and music on hold
# (CC BY-SA 3.0), from Debian packages, unpacked without root.
#   get-quality.sh [DIRECTORY]     default ~/.cache/hark/quality
set -euo pipefail
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hark/quality}
[ -s "$directory/core-sounds-en.txt" ] && [ -d "$directory/moh" ] && exit 0

for program in apt-get dpkg-deb flock; do
  command -v $program >/dev/null || { echo "get-quality: $program is missing; this needs a Debian or Ubuntu host" >&2; exit 1; }
done
mkdir -p "$directory"
exec 9>"$directory/.lock"
flock 9
[ -s "$directory/core-sounds-en.txt" ] && [ -d "$directory/moh" ] && exit 0

work=$(mktemp -d "$directory/part.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/root" "$work/moh"
echo "get-quality: fetching the text of the prompts and music on hold (14 MB, once) into $directory" >&2
(cd "$work" && apt-get -q -o APT::Sandbox::User= download asterisk-core-sounds-en asterisk-moh-opsound-wav) >"$work/log" 2>&1 ||
  { tail -5 "$work/log" >&2; echo "get-quality: failed; perhaps apt-get update has never been run here" >&2; exit 1; }
for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
gzip -dc "$work/root/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz" >"$work/text"
cp "$work/root"/usr/share/asterisk/moh/*.wav "$work/moh/"
[ -d "$directory/moh" ] || mv "$work/moh" "$directory/moh"
mv "$work/text" "$directory/core-sounds-en.txt"
