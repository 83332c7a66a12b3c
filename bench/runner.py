"""Runs measurements one after the other, each in a process of its own, so that one that fails leaves the others be."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from textwrap import shorten
from types import ModuleType

from bench.rows import Row
from bench.sandbox import cgroup2_root, enter_sandbox, remove_cgroups
from lab.signals import leave_orderly


@dataclass(frozen=True, slots=True)
class Measure:
    """`PACKAGE.NAME`. `sandboxed`: it runs in namespaces of its own; the others raise a lab. `prepares`: its
    `prepare()` runs before, outside the sandbox. `seconds` bounds a full run."""

    name: str
    sandboxed: bool
    seconds: float
    prepares: bool = False
    package: str = "bench.measures"


MEASURES = (
    Measure("connections", sandboxed=True, seconds=300, prepares=True),
    Measure("atomicity", sandboxed=True, seconds=660),
    Measure("revocation", sandboxed=True, seconds=120),
    Measure("denials", sandboxed=True, seconds=240),
    Measure("applying", sandboxed=True, seconds=120),
    Measure("flows", sandboxed=True, seconds=120),
    Measure("executables", sandboxed=True, seconds=60),
    Measure("fleet", sandboxed=False, seconds=240),
    Measure("agent", sandboxed=False, seconds=180),
    Measure("takeover", sandboxed=True, seconds=120),
    Measure("tampering", sandboxed=False, seconds=180),
    Measure("nspawn", sandboxed=False, seconds=480),
    Measure("upgrade", sandboxed=False, seconds=600),
)


def run(measures: Sequence[Measure], quick: bool) -> Iterator[Row]:
    """The rows of `measures`, as they come. What cannot be measured becomes a row without a value."""
    for measure in measures:
        started = time.monotonic()
        yield from _run_one(measure, quick)
        print(f"{measure.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def _run_one(measure: Measure, quick: bool) -> list[Row]:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    if measure.prepares:
        _module(measure).prepare()
    with _own_cgroup(measure) as cgroup:
        process = context.Process(target=_child, args=(measure, quick, cgroup, send), name=f"bench-{measure.name}")
        process.start()
        send.close()
        try:
            if not receive.poll(measure.seconds):
                return [_not_measured(measure, f"not done after {measure.seconds:g} s")]
            result: list[Row] | str = receive.recv()
        except EOFError:
            process.join()
            return [_not_measured(measure, f"its process ended with code {process.exitcode}")]
        finally:
            _end(process)
    return [_not_measured(measure, result)] if isinstance(result, str) else result


@contextmanager
def _own_cgroup(measure: Measure) -> Iterator[Path | None]:
    if not measure.sandboxed:
        yield None
        return
    path = cgroup2_root() / f"segctl-bench-{os.getpid()}-{measure.name}"
    try:
        yield path
    finally:
        remove_cgroups(path)


def _child(measure: Measure, quick: bool, cgroup: Path | None, send: Connection) -> None:
    leave_orderly()
    try:
        if cgroup is not None:
            enter_sandbox(cgroup)
        rows: list[Row] | str = _module(measure).measure(quick)
    except Exception as error:  # noqa: BLE001  whatever stopped it is the report of this measurement
        traceback.print_exc()
        rows = f"{type(error).__name__}: {error}"
    send.send(rows)


def _module(measure: Measure) -> ModuleType:
    return importlib.import_module(f"{measure.package}.{measure.name}")


def _end(process: multiprocessing.process.BaseProcess) -> None:
    process.join(10)
    if process.is_alive():
        process.terminate()
        process.join(30)
    if process.is_alive():
        process.kill()
        process.join()


def _not_measured(measure: Measure, why: str) -> Row:
    return Row(measure.name, None, "", f"not measured: {shorten(why, 600)}")
