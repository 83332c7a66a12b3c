"""A sandboxed host whose units may connect to nothing, and the agent's denial path in the loop that watches it."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from types import MappingProxyType, TracebackType
from typing import Self

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.denials.attribute import Attributor
from segctl_agent.denials.counts import Direction
from segctl_agent.denials.nflog import NflogReader
from segctl_agent.denials.pipeline import DenialPipeline
from segctl_agent.denials.sampler import DeniedSets
from segctl_agent.denials.values import Denial, Verdict
from segctl_agent.nft import statements as s
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import ACCEPT, OUTPUT, Chain, Data, KeyType, NftSet, Rule, Ruleset, SetSpec, goto
from segctl_agent.render.ends import (
    back_name,
    denied_counters,
    end_chain,
    end_name,
    end_sets,
    refuse_chains,
)
from segctl_agent.render.marks import Permit

from bench.policies import make_units, unit_path
from bench.sandbox import CGROUP_MOUNT, cgroup_id, run_ip

_MASK, _SHIFT = 0xFFF00000, 20
_CGROUPS = "cgroups"


def closed_policy(workloads: Iterable[str]) -> HostPolicy:
    """Workload `shop` is the unit shop.service, and so on; none has a permission."""
    return HostPolicy(
        "bench",
        1,
        "0" * 64,
        tuple(LocalWorkload(w, Process(ProcessKind.UNIT, f"{w}.service"), Mode.ENFORCE) for w in sorted(workloads)),
    )


def closed_table(policy: HostPolicy) -> Ruleset:
    """The output hook with the end chains of the agent; by cgroup, so that the bench itself may send."""
    chains = refuse_chains(policy)
    elements: dict[bytes, Data] = {}
    for number, workload in enumerate(policy.workloads, 1):
        mark = s.ct_mark_set(_MASK, number << _SHIFT)
        permit = Permit(mark, s.ct_mark_is(_MASK, number << _SHIFT), mark)
        older = (s.ct_mark_is(1, 1), s.tcp_without_syn())
        chains[end_name(workload.name, "out")] = end_chain("out", workload, permit, older)
        chains[back_name(workload.name, "out")] = Chain()
        path = unit_path(f"{workload.name}.service")
        elements[struct.pack("=Q", cgroup_id(path))] = goto(end_name(workload.name, "out"))
    by_cgroup = NftSet(SetSpec((KeyType.CGROUPSV2,), verdicts=True), MappingProxyType(elements))
    chains["output"] = Chain((Rule.of(s.cgroup_verdict(2, _CGROUPS)), Rule.of(s.verdict(ACCEPT))), OUTPUT)
    return Ruleset(MappingProxyType(chains), MappingProxyType({_CGROUPS: by_cgroup, **end_sets(policy)}))


class Denying:
    """Use as a context manager, in a loop. `on_denials` takes what the agent would report."""

    def __init__(self, workloads: Iterable[str], on_denials: Callable[[list[Denial], int], None]) -> None:
        self.policy = closed_policy(workloads)
        make_units(f"{w.name}.service" for w in self.policy.workloads)
        run_ip(
            "link add eth0 type veth peer name wire",
            "link set wire up",
            "link set eth0 up arp off",
            "addr add 10.99.255.1/16 dev eth0",
        )
        self._kernel = NetlinkKernel()
        self._kernel.apply(plan(self._kernel.read(), closed_table(self.policy)))
        paths = {cgroup_id(p): p for p in (unit_path(f"{w.name}.service") for w in self.policy.workloads)}
        names = {number: w.name for number, w in enumerate(self.policy.workloads, 1)}

        def name_of(direction: Direction, mark: int) -> tuple[str, Verdict] | None:
            name = names.get((mark & _MASK) >> _SHIFT)
            return None if name is None or direction == "in" else (name, "denied")

        self.reader = NflogReader()
        self._attributor = Attributor(paths.get, CGROUP_MOUNT)
        self.pipeline = DenialPipeline(
            self.reader, self._attributor.attribute_many, on_denials, sets=DeniedSets(), name_of=name_of
        )

    def __enter__(self) -> Self:
        self.pipeline.start(asyncio.get_running_loop())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.pipeline.close()
        self._attributor.close()
        self._kernel.destroy()
        self._kernel.close()
        run_ip("link del eth0")

    def denied(self) -> int:
        """Packets that the kernel's chains counted."""
        return sum(self._counters().values())

    def account(self) -> None:
        """What the agent does every five seconds."""
        self.pipeline.account(self._counters())

    def _counters(self) -> dict[tuple[Direction, str], int]:
        return dict(denied_counters(self._kernel.counters(), self.policy))


async def program(code: str, workload: str | None) -> asyncio.subprocess.Process:
    """Python code as a process of a unit; outside of all units without one."""
    join = "import os, socket, sys, time\n"
    if workload is not None:
        join += f"open('{CGROUP_MOUNT / unit_path(workload + '.service')}/cgroup.procs', 'w').write(str(os.getpid()))\n"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", join + code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
