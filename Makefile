# Each target sets up what it needs (tools/setup.sh: packages when root, .venv). Everything but lint, proto, bench-fleet and bench-suggest needs root.
.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help setup system services demo lab lab-down test test-web lint web proto bench bench-fleet bench-suggest deb clean

help:        ## this list
	@sed -n 's/^\([a-z-]*\): *[a-z ]*## /  \1: /p' $(MAKEFILE_LIST)

setup:
	@tools/setup.sh

system: setup
	@$(PY) -m lab.system

demo: system   ## watch a fleet being segmented, in namespaces on this machine; leaves nothing behind
	@$(PY) -m lab.demo

lab: system   ## the same fleet, to play with
	@$(PY) -m lab up

lab-down: setup   ## take it down
	@$(PY) -m lab down

lint: setup   ## style, types, import contracts, generated code
	@tools/lint.sh

services: setup   # what the machines of tests/nspawn run; nothing of it is started here
	@$(PY) -m lab.nspawn.packages

test: system services lint   ## lint and every test: unit, kernel, end to end
	@tools/neighbours.sh
	@tools/test.sh

test-web: setup   ## the web UI's tests alone, in Chromium
	@$(PY) -m pytest tests/web
	@$(PY) -m pytest tests/unit/segctl_controller/web

web: setup   ## build the web UI's bundle, which is committed; needs npm
	@tools/web.sh

proto: setup   ## regenerate the wire code from protos/
	@protos/generate.sh

bench: system   ## measure; prints a table and writes bench/out/bench.json
	@$(PY) -m bench

bench-fleet: setup   ## measure a controller with thousands of simulated agents; writes bench/out/fleet.json
	@$(PY) -m bench.fleet figures

bench-suggest: setup   ## measure suggested rules on fleets whose true policy is known; writes bench/out/suggest.json
	@$(PY) -m bench.suggest

deb:   ## Debian packages of agent, controller and command line, in dist/
	@deploy/deb/build

clean:   ## remove what builds and tests left, and labs whose owner died
	@if [ -x $(PY) ] && [ "$$(id -u)" = 0 ]; then $(PY) -c 'from lab.instance import purge; print("purged:", *purge())'; fi
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist bench/build
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
