#!/bin/sh
# Style, types, import contracts, and whether the generated wire code is what protos/ says.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

echo "lint: ruff"
ruff check --quiet
ruff format --check --quiet
echo "lint: mypy"
mypy
echo "lint: import contracts"
lint-imports
echo "lint: Vagrantfile and shell scripts"
ruby -c vagrant/Vagrantfile >/dev/null
for file in vagrant/box/*.sh; do bash -n "$file"; done
echo "lint: generated code"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
protos/generate.sh "$scratch"
for file in "$scratch"/segctl/proto/v1/*; do
  diff -u "common/segctl/proto/v1/${file##*/}" "$file" ||
    { echo "lint: ${file##*/} is not what protos/ says: run \`make proto\`" >&2; exit 1; }
done
