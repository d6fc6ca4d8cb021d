#!/usr/bin/env bash
# Runs every fuzz target for so many seconds each. `make fuzz` calls it.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
for target in codec request journal segment proof join consensus; do
  mkdir -p corpus/"$target" regressions/"$target"
  # cargo-fuzz asks for flags of nightly; the stable compiler takes them when told so.
  RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir . -s none "$target" corpus/"$target" regressions/"$target" -- \
    -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048
done
