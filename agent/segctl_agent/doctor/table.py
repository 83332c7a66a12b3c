"""The table in the kernel against the last good generation, and the tables of others beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from segctl.doctor import Finding, ok, problem, unknown, warning
from segctl.errors import StateError
from segctl.model.hostpolicy import HostPolicy

from segctl_agent.byuser import user_names
from segctl_agent.credentials import Identity
from segctl_agent.decisions import needed, noted
from segctl_agent.denials.prefix import NFLOG_GROUP
from segctl_agent.doctor.folder import readable
from segctl_agent.doctor.kernel import may_ask
from segctl_agent.drift import differences
from segctl_agent.endpoints import endpoints, load_remembered, resolve_endpoints
from segctl_agent.facts.addresses import AddressWatcher, known_addresses
from segctl_agent.facts.cgroups import CgroupWatcher, find_cgroup2_root
from segctl_agent.facts.containerstate import ContainerReader
from segctl_agent.facts.containerwatch import known_containers
from segctl_agent.facts.users import resolve_users
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.foreign import Finding as Foreign
from segctl_agent.nft.foreign import Weight, analyse
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.others import read_others
from segctl_agent.nft.ruleset import KeyType, Ruleset
from segctl_agent.render import MarkLayout, render
from segctl_agent.state import StateFolder

LOOKS, LOOKS_AT_RUNNING, PAUSE_SECONDS = 3, 15, 0.4
"""What changes on the host, and is followed by the agent, may be half done at one look; what a running agent says of
itself may be 5 s old."""
MOST_SHOWN = 5
_ROOT = "run it as root"


def look(folder: StateFolder, identity: Identity, layout: MarkLayout, *, running: bool) -> Iterator[Finding]:
    if not may_ask() or not readable(folder.path):
        yield unknown("table", "to read the kernel's table needs CAP_NET_ADMIN", _ROOT)
        return
    policy, owner, held = None, "", None
    drift: tuple[str, ...] = ()
    for attempt in range(LOOKS_AT_RUNNING if running else LOOKS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        policy, status = _stored(folder), (folder.read_status() or {}) if running else {}
        if status.get("trial"):
            yield from judge_trial(status.get("generation"), policy)
            return
        kernel = NetlinkKernel()
        try:
            held, owner = kernel.read(), kernel.other_owner()
        finally:
            kernel.close()
        drift = drifted(held, policy, partial(_facts, folder, identity), layout) if held and policy else ()
        if not drift:
            break
    yield from judge_table(held, policy, drift, bool(folder.held), owner)


def _stored(folder: StateFolder) -> HostPolicy | None:
    try:
        stored = folder.read_generation().stored
    except StateError:
        return None
    return stored.value if stored is not None else None


def judge_trial(number: object, policy: HostPolicy | None) -> Iterator[Finding]:
    """What is on trial is on no disk, so there is nothing to compare the kernel with."""
    before = f"generation {policy.generation}" if policy is not None else "no enforcement"
    text = f"generation {number} is on trial, and not compared; unless it is confirmed, {before} comes back"
    yield unknown("table", text, "segctl status says how the push goes")


def drifted(held: Ruleset, policy: HostPolicy, facts: partial[HostFacts], layout: MarkLayout) -> tuple[str, ...]:
    """What the table has and should not have, or the other way round; cgroups that are gone keep their elements."""
    decisions = noted(held.chains, layout.most)
    if decisions is None or set(decisions.ids) != set(needed(policy)):
        return ("its chains are not those of the stored generation",)
    known = replace(facts(), users=resolve_users(user_names(policy)))
    wanted = render(policy, known, decisions, layout)
    return differences(_without_cgroups(held), _without_cgroups(wanted)) + _misplaced(held, wanted)


def _without_cgroups(ruleset: Ruleset) -> Ruleset:
    """As it is, but for elements that are cgroups: they are looked at one by one. Flags are the owner's affair."""
    sets = {name: replace(s, elements={}) if KeyType.CGROUPSV2 in s.spec.key else s for name, s in ruleset.sets.items()}
    return replace(ruleset, sets=sets, flags=0)


def _misplaced(held: Ruleset, wanted: Ruleset) -> tuple[str, ...]:
    """Cgroups of now that the kernel gives to another workload, or does not know."""
    wrong = missing = 0
    for name, s in wanted.sets.items():
        if KeyType.CGROUPSV2 in s.spec.key and name in held.sets:
            has = held.sets[name].elements
            missing += sum(key not in has for key in s.elements)
            wrong += sum(key in has and has[key] != data for key, data in s.elements.items())
    found = [f"{wrong} cgroups are of another workload"] if wrong else []
    found += [f"{missing} cgroups are missing"] if missing else []
    return tuple(found)


def _facts(folder: StateFolder, identity: Identity) -> HostFacts:
    root = find_cgroup2_root()
    cgroups, reader = CgroupWatcher(root).scan(), ContainerReader(root)
    resolved = resolve_endpoints(identity.channel, load_remembered(folder.path), lambda _: ())
    return HostFacts(
        cgroups=cgroups,
        addresses=known_addresses(AddressWatcher()),
        controller=endpoints(resolved),
        agent_uid=folder.path.stat().st_uid,
        containers=known_containers(reader, cgroups),
        bridges=reader.bridges(),
    )


def judge_table(
    held: Ruleset | None, policy: HostPolicy | None, drift: tuple[str, ...], released: bool, owner: str
) -> Iterator[Finding]:
    if released:
        if held is not None:
            text = "this host is released, and the table inet segctl is there all the same"
            yield problem("table", text, "journalctl -u segctl-agent -n 20; segctl-agent release once more")
        return  # the release itself is told by another check
    if held is None:
        if policy is None:
            yield ok("table", "there is none, and no generation that asks for one")
        else:
            text = f"there is no table inet segctl: generation {policy.generation} is NOT enforced, every packet passes"
            yield problem("table", text, "systemctl restart segctl-agent, or segctl-agent load")
        return
    if policy is None:
        yield warning("table", "rules are in force, but no generation is stored", "systemctl restart segctl-agent")
    elif drift:
        more = f" and {len(drift) - MOST_SHOWN} more" if len(drift) > MOST_SHOWN else ""
        text = f"the kernel does not hold generation {policy.generation}: {'; '.join(drift[:MOST_SHOWN])}{more}"
        then = "journalctl -u segctl-agent -n 50; systemctl restart segctl-agent puts it right; nft monitor shows who"
        yield problem("table", text, then)
    else:
        whose = f"owned by {owner}" if owner else "others can change it"
        yield ok("table", f"the kernel holds generation {policy.generation}; {whose}")


def look_others(layout: MarkLayout) -> Iterator[Finding]:
    if not may_ask():
        yield unknown("neighbours", "to read the tables of others needs CAP_NET_ADMIN", _ROOT)
        return
    yield from judge_others(analyse(read_others(), layout.mask))


def judge_others(found: tuple[Foreign, ...]) -> Iterator[Finding]:
    serious = [f for f in found if f.weight is Weight.INTERFERES]
    for finding in serious[:MOST_SHOWN]:
        yield warning("neighbours", str(finding), "see `Beside other firewalls` of docs/operations.md")
    if len(serious) > MOST_SHOWN:
        text = f"{len(serious) - MOST_SHOWN} more rules of others interfere"
        yield warning("neighbours", text, "segctl-agent status names them")
    if not serious:
        harmless = f"; {len(found)} that may explain a refusal: segctl-agent status" if found else ""
        yield ok("neighbours", f"no rule of others interferes{harmless}")


def look_nflog(pid: int) -> Iterator[Finding]:
    """Who reads our NFLOG group. Only root may look."""
    try:
        text = Path("/proc/net/netfilter/nfnetlink_log").read_text()
    except PermissionError:
        yield unknown("nflog", "who reads denials is for root to see", _ROOT)
        return
    except FileNotFoundError:
        text = ""
    groups = {int(words[0]): int(words[1]) for line in text.splitlines() if len(words := line.split()) > 1}
    yield from judge_nflog(groups.get(NFLOG_GROUP), pid)


def judge_nflog(reader: int | None, pid: int) -> Iterator[Finding]:
    """`reader` is the netlink port that reads the group, by custom the pid; `pid` that of the agent, 0: none runs."""
    if not pid:
        return
    if reader is None:
        text = f"nobody reads NFLOG group {NFLOG_GROUP}: denials are enforced and not described"
        yield problem("nflog", text, "modprobe nfnetlink_log; systemctl restart segctl-agent")
    else:
        yield ok("nflog", f"group {NFLOG_GROUP} is read")
