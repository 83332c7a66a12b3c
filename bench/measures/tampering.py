"""How soon a watched table is as it was after someone changed it, and whether the agent names who did it."""

from __future__ import annotations

import re
import select
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.nft.watch import NftWatch, TamperNotice

from bench.lab_figures import in_network_of, shop_in_force, store_policy
from bench.rows import Goal, Row
from bench.statistic import percentile
from lab.fleet import AGENT_UNIT, Fleet
from lab.wait import until

_HOST = "db1"
_ENTRIES = 5_000
_GOAL = Goal("<=", 100)
_PAUSE_SECONDS = 0.25
"""Between two tamperings: fewer than ten a second, else the agent's throttle is what is measured."""
_KINDS = {
    "flush ruleset": "flush ruleset",
    "deleted table": "delete table inet segctl",
    "deleted chain": "flush chain inet segctl output; delete chain inet segctl output",
    "deleted rule": "delete rule inet segctl input handle {handle}",
    "inserted accept": "insert rule inet segctl input accept",
    "changed element": "add element inet segctl dns4 {{ 203.0.113.9 }}",
    "policy accept": "chain inet segctl input {{ policy accept; }}",
}


def measure(quick: bool) -> list[Row]:
    """A row for each kind of tampering, and one for the culprits."""
    runs = 4 if quick else 40
    with shop_in_force() as fleet:
        fleet.stop_controller()
        fleet.kill_agent(_HOST)
        store_policy(fleet, _HOST, _ENTRIES)
        fleet.nft(_HOST, "delete", "table", "inet", "segctl")
        fleet.start_agent(_HOST, "--table-guard", "watch")
        with in_network_of(fleet.lab.hosts[_HOST]):
            bystander = _Bystander()
        try:
            times = {
                kind: [_tamper(fleet, bystander, command) for _ in range(runs)] for kind, command in _KINDS.items()
            }
        finally:
            bystander.close()
        named = until("every tampering is told", lambda: _named(fleet, bystander.culprits), 10)
    how = (
        f"{runs} times, nft on {_HOST}, whose agent watches (--table-guard watch): from the notification of nft's "
        "transaction to that of the agent's first, after which the table was whole; both read by a third process"
    )
    rows = [
        Row(f"tamper healed, {kind}, {_ENTRIES:,} entries, p95", percentile(found, 0.95), "ms", how, _GOAL)
        for kind, found in times.items()
    ]
    tampers = len(bystander.culprits)
    return [
        *rows,
        Row("tamper: culprit named by pid", named / tampers, "of all", f"{tampers} runs of nft", Goal("==", 1)),
    ]


@dataclass
class _Bystander:
    """Reads the kernel's notifications and our table in a host's network namespace; must be made inside it."""

    notices: list[tuple[float, TamperNotice]] = field(default_factory=list)
    culprits: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.kernel = NetlinkKernel()
        self._watch = NftWatch(lambda notice: self.notices.append((time.perf_counter(), notice)))
        self.whole: Ruleset | None = until("the table is there", self.kernel.read, 10)

    def after(self, pid: int, seconds: float) -> tuple[float, float]:
        """When the process `pid` and when the next other one wrote."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            select.select([self._watch], [], [], deadline - time.perf_counter())
            self._watch.read()
            position = next((i for i, (_, n) in enumerate(self.notices) if n.pid == pid), None)
            if position is not None and position + 1 < len(self.notices):
                return self.notices[position][0], self.notices[position + 1][0]
        raise TimeoutError(f"the tampering of pid {pid} on {_HOST} was not healed in {seconds:g} s")

    def close(self) -> None:
        self._watch.close()
        self.kernel.close()


def _tamper(fleet: Fleet, bystander: _Bystander, command: str) -> float:
    """Milliseconds. Raises RuntimeError when the table is not whole afterwards."""
    host = fleet.lab.hosts[_HOST]
    time.sleep(_PAUSE_SECONDS)
    handle = _handle(fleet) if "{handle}" in command else ""
    bystander.notices.clear()
    script = f"echo $$; exec nft '{command.format(handle=handle)}'"
    process = host.popen(["sh", "-c", script], output=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    changed, healed = bystander.after(pid, 5)
    if process.wait(10):
        raise RuntimeError(f"nft failed: {command}")
    bystander.culprits.add(pid)
    time.sleep(_PAUSE_SECONDS)
    held = bystander.kernel.read()
    wrong = "no table" if held is None or bystander.whole is None else _wrong(held, bystander.whole)
    if wrong:
        raise RuntimeError(f"not whole after `{command}` was healed: {wrong}")
    return (healed - changed) * 1000


def _wrong(held: Ruleset, whole: Ruleset) -> str:
    """What is missing or too much. A healing lets flows be judged anew, under other numbers in names and in rules."""
    expected, found = _shape(whole), _shape(held)
    return "; ".join(
        f"{thing} {found[thing]} instead of {expected[thing]}"
        for thing in expected | found
        if found[thing] != expected[thing]
    )


def _shape(ruleset: Ruleset) -> Counter[str]:
    """How many rules the chains of each hook and name have, and how many elements the sets of each name."""
    shape: Counter[str] = Counter()
    for name, chain in ruleset.chains.items():
        shape[f"rules of {_unnumbered(name)} at {chain.base}"] += 1 + len(chain.rules)
    for name, found in ruleset.sets.items():
        shape[f"elements of {_unnumbered(name)}"] += 1 + len(found.elements)
    return shape


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "N", name)


def _handle(fleet: Fleet) -> str:
    listing = fleet.nft(_HOST, "--handle", "list", "chain", "inet", "segctl", "input")
    return str(re.findall(r"# handle (\d+)$", listing, re.M)[-1])


def _named(fleet: Fleet, culprits: set[int]) -> int:
    """How many the agent has told by pid; 0 until every one is."""
    told = {
        int(pid) for pid in re.findall(r"tamper: nft \(pid (\d+)\)", fleet.lab.units[_HOST].log(AGENT_UNIT).read_text())
    }
    return len(culprits & told)
