"""`python -m bench.fleet run`: agents that stay connected and report, and a line every few seconds of what they see."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from bench.fleet.crowd import Churn
from bench.fleet.crowds import Crowds, crowds
from bench.fleet.identities import Member
from bench.fleet.reports import Load


def simulate(
    members: Sequence[Member], load: Load, churn: Churn, *, count: int, verify: bool, every: float, seconds: float
) -> None:
    """Prints a JSON object a line; ends after `seconds`, 0: never. Raises TimeoutError when not all agents connect."""
    with crowds(members, load, count=count, verify=verify) as fleet:
        took = fleet.connect()
        _say({"agents": fleet.size, "connected_s": round(took, 2)})
        fleet.settle()
        fleet.churn(churn)
        _watch(fleet, every, seconds)


def _watch(fleet: Crowds, every: float, seconds: float) -> None:
    started = time.monotonic()
    before = fleet.totals()
    while not seconds or time.monotonic() - started < seconds:
        time.sleep(every)
        now = fleet.totals()
        rates = {
            f"{name}_per_s": round((now[name] - before[name]) / every, 1)
            for name in ("messages", "received", "acks", "reports", "sessions")
        }
        told = {"after_s": round(time.monotonic() - started), "connected": now["connected"], **rates}
        _say({**told, "failures": now["failures"]})
        before = now


def _say(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)
