"""The log prefix: how a rule of the kernel tells the agent what it denied, and for which workload.

    segctl 1 D VERDICT WORKLOAD        segctl 1 out deny shop-db

1 is the version of the codec. D is `in` or `out`; VERDICT is `deny` or `test` (logged and let pass); WORKLOAD is a
workload's name, or `?` where the socket's cgroup is not mapped yet. The longest prefix has 58 characters: the kernel
keeps 63 at least (NF_LOG_PREFIXLEN of linux/netfilter/nf_log.h before 6.0; 127 since).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

NFLOG_GROUP = 1510
"""The NFLOG group that our log rules write to and NflogReader reads."""

UNKNOWN_WORKLOAD = "?"
MAX_WORKLOAD = 40

PrefixDirection = Literal["in", "out"]
PrefixVerdict = Literal["deny", "test"]

_WORKLOAD = rf"\?|[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_WORKLOAD - 1}}}"
_PREFIX = re.compile(rf"segctl 1 (in|out) (deny|test) ({_WORKLOAD})")
_NAME = re.compile(_WORKLOAD)


@dataclass(frozen=True, slots=True)
class Prefix:
    direction: PrefixDirection
    verdict: PrefixVerdict
    workload: str


def encode(direction: PrefixDirection, verdict: PrefixVerdict, workload: str) -> str:
    """The prefix of a log rule. Raises ValueError for a workload name that the codec cannot carry."""
    if _NAME.fullmatch(workload) is None:
        raise ValueError(
            f"workload {workload!r} does not fit a log prefix: letters, digits, '.', '_' and '-', "
            f"at most {MAX_WORKLOAD}"
        )
    return f"segctl 1 {direction} {verdict} {workload}"


def decode(text: str) -> Prefix | None:
    """What a prefix says, or None for one that is not ours: other programs may log to our group."""
    match = _PREFIX.fullmatch(text)
    if match is None:
        return None
    direction, verdict, workload = match.groups()
    return Prefix("in" if direction == "in" else "out", "deny" if verdict == "deny" else "test", workload)
