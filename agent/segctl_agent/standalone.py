"""What the command does without a running agent: load, status, release."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from segctl.errors import KernelError, StateError

from segctl_agent.boot import Boot, put_last_good
from segctl_agent.byuser import user_names
from segctl_agent.credentials import Identity, load_identity
from segctl_agent.decisions import needed, noted
from segctl_agent.endpoints import endpoints, load_remembered, resolve_endpoints
from segctl_agent.enforcer import Enforcer
from segctl_agent.execgate.lock import gate_runs
from segctl_agent.execgate.targets import FILE
from segctl_agent.facts.addresses import AddressWatcher, known_addresses
from segctl_agent.facts.cgroups import CgroupWatcher, find_cgroup2_root
from segctl_agent.facts.containerstate import ContainerReader
from segctl_agent.facts.containerwatch import known_containers
from segctl_agent.facts.users import resolve_users
from segctl_agent.facts.values import HostFacts
from segctl_agent.flows.carried import carried_ids
from segctl_agent.nft.fallback import Apply, open_kernel
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.library import chain_lines
from segctl_agent.nft.ownership import TableGuard
from segctl_agent.nft.ruleset import Expr, Rule, Ruleset
from segctl_agent.nft.text import to_text
from segctl_agent.render import MarkLayout, render
from segctl_agent.state import StateFolder

log = logging.getLogger(__name__)

_RELEASE_PROOF_SECONDS = 5.0
_QUIET_SECONDS = 1.5


def load_last_good(folder: StateFolder, identity: Identity, layout: MarkLayout, apply: Apply) -> Boot:
    """Raises KernelError or StateError. The agent's user is the owner of the state folder, whoever runs this."""
    kernel = open_kernel(apply, TableGuard.AUTO, lambda told: log.warning("%s", told))
    try:
        carried = partial(carried_ids, layout)
        enforcer = Enforcer(kernel, resolve_users, folder.path.stat().st_uid, layout, in_use=carried)
        root = find_cgroup2_root()
        cgroups, reader = CgroupWatcher(root).scan(), ContainerReader(root)
        enforcer.cgroups_changed(cgroups, {})
        enforcer.containers_changed(known_containers(reader, cgroups), reader.bridges())
        enforcer.addresses_changed(known_addresses(AddressWatcher()))
        resolved = resolve_endpoints(identity.channel, load_remembered(folder.path), lambda _: ())
        enforcer.controllers_changed(endpoints(resolved))
        return put_last_good(folder, identity.host, enforcer)
    finally:
        kernel.close()


def kernel_text(folder: StateFolder, layout: MarkLayout) -> str | None:
    """The table as the kernel holds it, in nft syntax; None when there is none. The kernel keeps no text: a rule that
    the last good generation renders too is shown in its words, any other in those of libnftables."""
    kernel = NetlinkKernel()
    try:
        held = kernel.read()
    finally:
        kernel.close()
    if held is None:
        return None
    cgroups = CgroupWatcher(find_cgroup2_root()).scan()
    words = _words(folder, held, cgroups, layout)
    chains = {name: replace(chain, rules=_worded(name, chain.rules, words)) for name, chain in held.chains.items()}
    return to_text(replace(held, chains=chains), {number: path for path, number in cgroups.items()})


def _worded(chain: str, rules: tuple[Rule, ...], words: Mapping[tuple[Expr, ...], Rule]) -> tuple[Rule, ...]:
    if all(rule.exprs in words for rule in rules):
        return tuple(words[rule.exprs] for rule in rules)
    try:
        lines = chain_lines(chain)
    except KernelError:
        return tuple(words.get(rule.exprs, rule) for rule in rules)  # by the names of their expressions
    return tuple(replace(rule, text=line) for rule, line in zip(rules, lines, strict=False))


def _words(
    folder: StateFolder, held: Ruleset, cgroups: Mapping[str, int], layout: MarkLayout
) -> dict[tuple[Expr, ...], Rule]:
    """Expressions -> the rule with its text. Empty when no generation reads: the table is shown all the same."""
    identity = load_identity(folder.path)
    try:
        stored = folder.read_generation().stored
    except StateError:
        stored = None
    decisions = noted(held.chains, layout.most)
    if stored is None or identity is None or decisions is None or set(decisions.ids) != set(needed(stored.value)):
        return {}
    facts = HostFacts(
        cgroups=cgroups,
        users=resolve_users(user_names(stored.value)),
        addresses=AddressWatcher().current(),
        controller=endpoints(resolve_endpoints(identity.channel, load_remembered(folder.path), lambda _: ())),
        agent_uid=folder.path.stat().st_uid,
        bridges=ContainerReader(find_cgroup2_root()).bridges(),
    )
    rendered = render(stored.value, facts, decisions, layout)
    return {rule.exprs: rule for chain in rendered.chains.values() for rule in chain.rules}


def remove_rules(folder: StateFolder) -> None:
    """Removes our table and nothing else, of a host that is released, and proves it: an agent amid a change might write
    it once more. A table that a running agent owns is removed by that agent, as soon as it sees the hold."""
    kernel = NetlinkKernel()
    owner = ""
    try:
        deadline = time.monotonic() + _RELEASE_PROOF_SECONDS
        quiet_since: float | None = None
        while time.monotonic() < deadline:
            if not folder.held:
                return  # it was brief, and has ended: the table is the agent's again
            if kernel.present():
                owner = kernel.other_owner()
                if not owner:
                    kernel.destroy()
                quiet_since = None
            elif quiet_since is None:
                quiet_since = time.monotonic()
            elif folder.lock_is_free() or time.monotonic() - quiet_since > _QUIET_SECONDS:
                return
            time.sleep(0.05)
    finally:
        kernel.close()
    if owner:
        raise KernelError(
            f"{owner} owns the table inet segctl and does not remove it: end that process "
            "(`systemctl kill -s KILL segctl-agent`) and release again"
        )
    raise KernelError(
        "the table inet segctl comes back: stop the agent (`systemctl stop segctl-agent`) and release again"
    )


def describe(folder: StateFolder, identity: Identity) -> tuple[list[str], bool]:
    """Lines for people, and whether all is well: an agent runs, and the kernel holds our table."""
    kernel = NetlinkKernel()
    try:
        ruleset, owner = kernel.read(), kernel.other_owner()
    finally:
        kernel.close()
    status = folder.read_status() or {}
    running = not folder.lock_is_free()
    good = running
    lines = [f"host {identity.host} of the fleet {identity.fleet}"]
    if folder.held:
        lines.append(f"RELEASED: {folder.held}; `segctl-agent load` ends it")
        good = False
    if ruleset is None:
        lines.append("kernel: no table, nothing is enforced")
        good = good and not _expects_rules(folder)
    else:
        elements = sum(len(s.elements) for s in ruleset.sets.values())
        lines.append(f"kernel: {len(ruleset.chains)} chains, {elements} elements")
        lines.append(f"table: owned by {owner}, nobody else can change it" if owner else "table: others can change it")
    if (folder.path / FILE).exists():
        gate = gate_runs(folder.path)
        lines.append("exec gate: running" if gate else "exec gate: not running; no process belongs to an executable")
        good = good and gate
    if not running:
        lines.append("agent: not running; the rules in the kernel stay as they are (`systemctl start segctl-agent`)")
        return lines, False
    lines.append(f"agent: pid {status.get('pid', '?')}, {status.get('state', 'starting')}")
    controller = status.get("controller")
    lines.append(
        f"controller: {controller}" if controller else f"controller: {status.get('problem') or 'no session yet'}"
    )
    lines += [f"note: {finding}" for finding in status.get("neighbours", ())]
    lines.append(f"reports waiting: {status.get('reports_waiting', 0)}; status of {status.get('updated', 'never')}")
    return lines, good and bool(controller)


def _expects_rules(folder: StateFolder) -> bool:
    try:
        return folder.read_generation().stored is not None
    except StateError:
        return True
