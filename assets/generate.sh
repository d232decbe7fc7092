#!/bin/sh
# Makes the recordings beside this script again (Debian packages flite and sox). See README.md for their licence.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# record FILE TEXT: the voice "slt", silence at both ends cut short, peak at -6 dB, 8 kHz mono 16 bit
record() {
    flite -voice slt -t "$2" -o "$tmp/raw.wav"
    sox -D "$tmp/raw.wav" -r 8000 -c 1 -b 16 "$1" norm -6 \
        silence 1 0.005 1% pad 0.02 reverse silence 1 0.005 0.5% pad 0.08 reverse
}

record apology.wav "We are sorry. This service is not available right now. Please try again later."
record builtin/greeting.wav "Hello, this is Hark. Say something, and I will repeat it. Press a key, and I will read it back. Press the pound key to say goodbye."
record builtin/goodbye.wav "Goodbye."
set -- zero one two three four five six seven eight nine
digit=0
for word; do
    record "builtin/pressed_$digit.wav" "You pressed $word."
    digit=$((digit + 1))
done
record builtin/pressed_star.wav "You pressed star."
# spelt so that the voice says the letter and not the article
record builtin/pressed_a.wav "You pressed ay."
record builtin/pressed_b.wav "You pressed bee."
record builtin/pressed_c.wav "You pressed see."
record builtin/pressed_d.wav "You pressed dee."
