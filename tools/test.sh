#!/bin/sh
# Every test, in four parts side by side: those on machines that boot, and those with hosts in namespaces, wait for
# kernels and clocks most of the time; tests/unit, tests/fuzz and those of the databases compute, and so does the browser
# of tests/web, which has a process of its own: Playwright's loop and those of async tests get in each other's way. Fails
# when one does.
# Usage: tools/test.sh
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
databases="flowstore notices shared store store_hits web_sessions"
computed="tests/unit tests/fuzz" booted="tests/nspawn tests/packages tests/chaos"
for name in $databases; do
  computed="$computed tests/contract/test_$name.py"
done
rest=""
for path in $computed $booted tests/web; do
  rest="$rest --ignore=$path"
done

# Second in line for the processors: the others have clocks to keep.
# shellcheck disable=SC2086 # they are lists
nice -n 10 .venv/bin/python -m pytest $computed </dev/null >build/test-computed.txt 2>&1 &
computing=$!
# shellcheck disable=SC2086
.venv/bin/python -m pytest $booted </dev/null >build/test-booted.txt 2>&1 &
booting=$!
nice -n 10 .venv/bin/python -m pytest tests/web </dev/null >build/test-web.txt 2>&1 &
browsing=$!
trap 'kill "$computing" "$booting" "$browsing" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
hosts=0 machines=0 unit=0 web=0
# shellcheck disable=SC2086
.venv/bin/python -m pytest $rest || hosts=$?
wait "$booting" || machines=$?
cat build/test-booted.txt
wait "$browsing" || web=$?
cat build/test-web.txt
wait "$computing" || unit=$?
trap - EXIT
cat build/test-computed.txt
if [ "$hosts" -ne 0 ] || [ "$machines" -ne 0 ] || [ "$unit" -ne 0 ] || [ "$web" -ne 0 ]; then
  echo "test: FAILED (exit code $hosts with hosts, $machines on machines, $unit of those that compute, $web of the web UI)" >&2
  exit 1
fi
