#!/bin/sh
# Builds the web UI's bundle into controller/segctl_controller/web/static, which is committed, so that nobody who installs
# segctl needs npm. Run it after every change in web/; a test holds that it was. Usage: tools/web.sh
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python tools/web_types.py
cd web
npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
npx tsc --noEmit
node build.mjs ../controller/segctl_controller/web/static
cd ..
.venv/bin/python tools/web_sources.py >web/built.sha256
