#!/bin/bash
# Fuzz every parser (or those named) for some seconds each, beginning with fixtures/fuzz/ and what earlier runs found.
#   fuzz.sh SECONDS [TARGET…]
# A stable compiler will do: RUSTC_BOOTSTRAP=1 lets it take the flags of the sanitizers. Nothing that is shipped is built so.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=${XDG_CACHE_HOME:-$HOME/.cache}/hark/tools/bin:$PATH RUSTC_BOOTSTRAP=1
seconds=${1:-30}
shift || true
# the very versions that are shipped; cargo adds libFuzzer
cp Cargo.lock fuzz/Cargo.lock
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
[ $# -eq 0 ] || targets=("$@")
for target in "${targets[@]}"; do
  echo "== $target"
  mkdir -p "fuzz/corpus/$target"
  cargo fuzz run "$target" "fuzz/corpus/$target" "fixtures/fuzz/$target" -- -max_total_time="$seconds" -max_len=8192 -timeout=10 -print_final_stats=1
done
