"""How full connection tracking is: a full table drops new connections of everybody, permitted or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path("/proc/sys/net/netfilter")
FULL, RELIEVED = 0.9, 0.8
"""Shares of nf_conntrack_max: told from the first on, and again only after it fell below the second."""


@dataclass(frozen=True, slots=True)
class Fill:
    """Flows that are tracked, and how many can be."""

    entries: int
    most: int

    @property
    def share(self) -> float:
        return self.entries / self.most if self.most > 0 else 0.0


def read_fill(folder: Path = _FOLDER) -> Fill | None:
    """None without the module nf_conntrack: there is nothing to fill."""
    try:
        return Fill(*(int((folder / f"nf_conntrack_{n}").read_text()) for n in ("count", "max")))
    except (OSError, ValueError):
        return None


class ConntrackGauge:
    """`look` answers a problem when it begins, else nothing."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._folder = folder
        self._told = False

    def look(self) -> str:
        """Empty, or what to tell."""
        fill = read_fill(self._folder)
        if fill is None:
            return ""
        if fill.share < RELIEVED:
            self._told = False
        if fill.share < FULL or self._told:
            return ""
        self._told = True
        return (
            f"connection tracking is nearly full: {fill.entries} of {fill.most} flows. When it is full the kernel "
            "drops new connections, permitted or not: raise net.netfilter.nf_conntrack_max, or find out who opens so "
            "many"
        )
