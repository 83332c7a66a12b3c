#!/bin/sh
# Every test, in two halves side by side: those with hosts wait for kernels and clocks most of the time, while those of
# tests/unit and tests/fuzz, and of the databases, compute. Fails when one half does. Usage: tools/test.sh
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
told=build/test-unit.txt
databases="flowstore notices shared store store_hits"
computed="tests/unit tests/fuzz" ignored="--ignore=tests/unit --ignore=tests/fuzz"
for name in $databases; do
  computed="$computed tests/contract/test_$name.py" ignored="$ignored --ignore=tests/contract/test_$name.py"
done

# Second in line for the processors: the others have clocks to keep.
# shellcheck disable=SC2086 # they are lists
nice -n 10 .venv/bin/python -m pytest $computed </dev/null >"$told" 2>&1 &
computing=$!
trap 'kill "$computing" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
hosts=0
# shellcheck disable=SC2086
.venv/bin/python -m pytest $ignored || hosts=$?
unit=0
wait "$computing" || unit=$?
trap - EXIT
cat "$told"
if [ "$hosts" -ne 0 ] || [ "$unit" -ne 0 ]; then
  echo "test: FAILED (exit code $hosts with hosts, $unit of those that compute)" >&2
  exit 1
fi
