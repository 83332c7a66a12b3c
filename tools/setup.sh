#!/bin/sh
# Everything segctl's make targets need on Debian 12: packages (as root), a virtual environment, the project in it.
# Quick when there is nothing to do. Usage: tools/setup.sh
set -eu
cd "$(dirname "$0")/.."

packages="nftables libnftables1 netbase iproute2 procps util-linux python3 python3-venv ca-certificates gcc libc6-dev
podman crun netavark iptables ruby postgresql chromium"
missing=""
for package in $packages; do
  case "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)" in
    *"ok installed") ;;
    *) missing="$missing $package" ;;
  esac
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: these packages are missing:$missing" >&2
    echo "setup: run as root, or first: apt-get install$missing" >&2
    exit 1
  fi
  echo "setup: installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null || echo "setup: apt-get update failed, trying with the lists that are here" >&2
  # shellcheck disable=SC2086  # a list of words
  apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
fi

python=/usr/bin/python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "setup: $python is $("$python" -V 2>&1), segctl needs 3.11 or later: use Debian 12" >&2
  exit 1
fi

stamp=.venv/.segctl-setup
wanted=$( { cat pyproject.toml; pwd; "$python" -V; } | sha256sum)
if [ ! -x .venv/bin/python ] || [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "setup: installing the project and its tools in .venv"
  [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev]' </dev/null
  echo "$wanted" >"$stamp"
fi
