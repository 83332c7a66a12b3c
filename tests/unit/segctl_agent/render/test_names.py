"""Names of chains and sets are stable: a packet that is being judged while a transaction commits may find an element of
the new policy and go through rules of the old one, so both must be the same workload's."""

from __future__ import annotations

from dataclasses import replace

from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl_agent.facts.values import HostFacts
from segctl_agent.render import denied_counters, render

from tests.decided import decided, rendered
from tests.netns.samples import networks

ENTRY = Entry("r", "g", (PortRange("tcp", 80, 80),), managed=True)
FACTS = HostFacts({"system.slice": 1, "system.slice/m.service": 2})


def _workload(name: str) -> LocalWorkload:
    return LocalWorkload(name, Process(ProcessKind.UNIT, f"{name[0]}.service"), Mode.ENFORCE, (ENTRY,), (ENTRY,))


def _policy(*names: str) -> HostPolicy:
    workloads = (LocalWorkload("host", None, Mode.ENFORCE), *map(_workload, names))
    ordered = tuple(sorted(workloads, key=lambda w: w.name))
    return HostPolicy("h", 1, "d", ordered, (Group("g", networks("10.0.0.1/32")),))


def test_a_workload_keeps_its_chains_sets_and_elements_when_others_come_and_go() -> None:
    crowd = _policy("a-first", "middle", "z-last")
    ids = decided(crowd)
    among, alone = render(crowd, FACTS, ids), render(_policy("middle"), FACTS, ids)
    assert alone.sets["cg2_in"] == among.sets["cg2_in"]
    shared = {name for name in alone.chains if "middle" in name} | {n for n in alone.sets if "middle" in n}
    assert len(shared) == 6 + 4 + 2  # its chains, the names of its decisions, its maps
    for name in shared:
        assert alone.chains.get(name) == among.chains.get(name)
        assert alone.sets.get(name) == among.sets.get(name)


def test_counters_are_found_by_the_same_names() -> None:
    policy = _policy("middle")
    chains = rendered(policy, FACTS, 1).chains
    counted = {name: 1 for name in chains if name.startswith(("end", "unknown"))}
    assert set(denied_counters(counted, policy)) == {(d, w) for d in ("in", "out") for w in ("host", "middle", "?")}
    calm = replace(policy, workloads=tuple(replace(w, mode=Mode.OBSERVE) for w in policy.workloads))
    assert denied_counters({}, calm) == {}
