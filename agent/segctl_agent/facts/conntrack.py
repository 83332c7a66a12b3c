"""How full connection tracking is: a full table drops new connections of everybody, permitted or not."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path("/proc/sys/net/netfilter")
FULL, RELIEVED = 0.9, 0.8
"""Shares of nf_conntrack_max: told from the first on, and again only after it fell below the second."""


class ConntrackGauge:
    """`look` answers a problem when it begins, else nothing."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._folder = folder
        self._told = False

    def look(self) -> str:
        """Empty, or what to tell. Without the module nf_conntrack there is nothing to fill."""
        try:
            count, most = (int((self._folder / f"nf_conntrack_{n}").read_text()) for n in ("count", "max"))
        except (OSError, ValueError):
            return ""
        if most <= 0 or count < RELIEVED * most:
            self._told = False
        if most <= 0 or count < FULL * most or self._told:
            return ""
        self._told = True
        return (
            f"connection tracking is nearly full: {count} of {most} flows. When it is full the kernel drops new "
            "connections, permitted or not: raise net.netfilter.nf_conntrack_max, or find out who opens so many"
        )
