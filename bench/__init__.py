"""Measures segctl on this machine: `python -m bench` prints a table and writes `bench/out/bench.json`."""
