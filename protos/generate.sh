#!/bin/sh
# The only way to regenerate the wire code: `protos/generate.sh [OUT]`. CI runs it into a scratch folder and diffs.
set -eu
cd "$(dirname "$0")/.."
out=${1:-common}
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I protos --python_out="$out" --grpc_python_out="$out" \
  --mypy_out="$out" --mypy_grpc_out="$out" protos/segctl/proto/v1/*.proto
