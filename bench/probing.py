"""Runs `native/probes.c` beside whatever changes the rules, and reads its counts."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from bench.native_build import native_program
from bench.sandbox import CGROUP_MOUNT


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """What the probes saw; `probes` is allowed + denied connections tried, exchanges are on long-lived connections."""

    probes: int
    allowed: int
    denied: int
    wrongly_dropped: int
    wrongly_allowed: int
    exchanges: int
    stalled: int

    @classmethod
    def parse(cls, line: str) -> ProbeCounts:
        """A line of `probes`; raises ValueError for anything else."""
        fields = [int(word) for word in line.split()]
        if len(fields) != 7:
            raise ValueError(f"not a line of counts from bench/native/probes.c: {line!r}")
        return cls(*fields)


@dataclass(frozen=True, slots=True)
class Wrong:
    """A probe that did not go as it must: nanoseconds of the monotonic clock, and what happened."""

    since: int
    until: int
    what: str

    @classmethod
    def parse(cls, line: str) -> Wrong:
        """A line of the program's standard error; raises ValueError for anything else."""
        since, until, what = line.split(maxsplit=2)
        return cls(int(since), int(until), what)


class Namespace(Protocol):
    @property
    def path(self) -> str:
        """Of the network namespace, as setns(2) takes it."""


class Wire(Protocol):
    """Two network namespaces that reach each other as those of bench.wire do."""

    @property
    def client(self) -> Namespace: ...
    @property
    def server(self) -> Namespace: ...


class Prober:
    """Use as a context manager: it probes from entry until `finish`. The cgroups are paths below the mount."""

    def __init__(self, wire: Wire, process_cgroup: str, other_cgroup: str, cpu: int = 0) -> None:
        cgroups = (str(CGROUP_MOUNT / path) for path in (process_cgroup, other_cgroup))
        self._command = [str(native_program("probes")), str(cpu), wire.client.path, wire.server.path, *cgroups]
        self._latest: ProbeCounts | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._latest = ProbeCounts.parse(line)

    @property
    def probes(self) -> int:
        """How many probes so far, for certain."""
        return 0 if self._latest is None else self._latest.probes

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> tuple[ProbeCounts, list[Wrong]]:
        """Stops probing; returns the counts and the first wrong verdicts. Raises RuntimeError when it failed."""
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        code = self._process.wait(timeout=30)
        self._reader.join(timeout=30)
        said = self._process.stderr.read().strip()
        if code or self._latest is None:
            raise RuntimeError(f"probes stopped with {code}: {said[:600]}")
        return self._latest, [Wrong.parse(line) for line in said.splitlines()]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.running:
            self._process.terminate()
            self._process.wait(timeout=30)
