#!/bin/sh
# Every test, in two halves side by side: those with hosts wait for kernels and clocks most of the time, while those of
# tests/unit and tests/fuzz compute. Fails when one half does. Usage: tools/test.sh
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
told=build/test-unit.txt

# Second in line for the processors: the others have clocks to keep.
nice -n 10 .venv/bin/python -m pytest tests/unit tests/fuzz </dev/null >"$told" 2>&1 &
computing=$!
trap 'kill "$computing" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
hosts=0
.venv/bin/python -m pytest --ignore=tests/unit --ignore=tests/fuzz || hosts=$?
unit=0
wait "$computing" || unit=$?
trap - EXIT
cat "$told"
if [ "$hosts" -ne 0 ] || [ "$unit" -ne 0 ]; then
  echo "test: FAILED (exit code $hosts with hosts, $unit of tests/unit and tests/fuzz)" >&2
  exit 1
fi
