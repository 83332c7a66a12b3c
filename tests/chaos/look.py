"""What a host's kernel holds, asked without its agent: `python -m tests.chaos.look STATE` inside a lab host, as root.

It prints `ready`. Then each line of input is a JSON object, NAME to paths of files as generation.0 is: one, or two for
what is between them (segctl.policy.widen). The answer is one too, NAME to what the kernel holds that is not as `render`
makes it of that generation and of this host's facts: nothing when the kernel holds it whole, chains, sets, elements and
counters. Of a mixture, every answer says something.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

from segctl.model.hostpolicy import HostPolicy
from segctl.policy.widen import widen
from segctl_agent.byuser import user_names
from segctl_agent.credentials import load_identity
from segctl_agent.decisions import needed, noted
from segctl_agent.drift import differences, same_but_cgroups
from segctl_agent.endpoints import endpoints, load_remembered, resolve_endpoints
from segctl_agent.facts.addresses import AddressWatcher, known_addresses
from segctl_agent.facts.cgroups import CgroupWatcher, find_cgroup2_root
from segctl_agent.facts.users import resolve_users
from segctl_agent.facts.values import Address, HostFacts
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.ruleset import KeyType, Ruleset
from segctl_agent.render import MarkLayout, render
from segctl_agent.slots import unpack
from segctl_agent.state import StateFolder, decode_policy

MOST_TOLD = 5
LATE = "late"


def facts_for(folder: StateFolder, policy: HostPolicy, addresses: frozenset[Address]) -> HostFacts:
    identity = load_identity(folder.path)
    channel = identity.channel if identity is not None else ()
    return HostFacts(
        cgroups=CgroupWatcher(find_cgroup2_root()).scan(),
        users=resolve_users(user_names(policy)),
        addresses=addresses,
        controller=endpoints(resolve_endpoints(channel, load_remembered(folder.path), lambda _: ())),
        agent_uid=folder.path.stat().st_uid,
    )


def difference(
    held: Ruleset | None, folder: StateFolder, policy: HostPolicy, addresses: frozenset[Address]
) -> tuple[str, ...]:
    """Empty: the kernel holds `policy`, all of it and nothing else."""
    layout = MarkLayout()
    decisions = noted(held.chains, layout.most) if held is not None else None
    if held is None or decisions is None:
        return ("there is no table, or its chains name no decisions",)
    if set(decisions.ids) != set(needed(policy)):
        return ("its chains are of other decisions",)
    facts = facts_for(folder, policy, addresses)
    wanted = render(policy, facts, decisions, layout)
    if not same_but_cgroups(held, wanted):
        return differences(held, wanted)
    return tuple(cgroups_misplaced(held, wanted, facts))


def cgroups_misplaced(held: Ruleset, wanted: Ruleset, facts: HostFacts) -> Iterator[str]:
    """A cgroup that is gone may keep its place. One that has none yet is closed: it is only LATE."""
    here = {struct.pack("=Q", number) for number in facts.cgroups.values()}
    for name, found in wanted.sets.items():
        if KeyType.CGROUPSV2 not in found.spec.key:
            continue
        there = held.sets[name].elements
        for key in sorted(here & (found.elements.keys() | there.keys())):
            if key not in there:
                yield f"{LATE}: set {name} lacks a cgroup"
            elif found.elements.get(key) != there[key]:
                yield f"set {name} has a cgroup that belongs elsewhere"


def answer(folder: StateFolder, slots: dict[str, list[str]], addresses: frozenset[Address]) -> dict[str, list[str]]:
    kernel = NetlinkKernel()
    try:
        held = kernel.read()
    finally:
        kernel.close()
    told = {}
    for name, paths in slots.items():
        policies = [decode_policy(unpack(Path(path).read_bytes()).value) for path in paths]
        policy = reduce(widen, policies)
        told[name] = list(difference(held, folder, policy, addresses))[:MOST_TOLD]
    return told


def main() -> int:
    folder, addresses = StateFolder(Path(sys.argv[1])), known_addresses(AddressWatcher())
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(folder, json.loads(line), addresses)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
