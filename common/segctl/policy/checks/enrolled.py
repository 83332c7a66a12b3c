"""What the enrolled hosts show: hosts without a mode, peers that cover hosts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from segctl.model.findings import NOWHERE, Finding
from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, Selector, Tags
from segctl.policy.checks.terms import warning
from segctl.policy.decide import Instance, selects


def find_hosts_without_mode(policy: Policy, inventory: Inventory | None) -> Iterator[Finding]:
    """One warning for all of them. Hosts with the same tags are looked at once."""
    hint = "add a mode that selects them, so that the policy says what they do"
    if inventory is None:
        if not policy.modes:
            yield warning(NOWHERE, "mode-missing", "no mode is given: every host observes and drops nothing", hint)
        return
    verdicts: dict[Tags, bool] = {}
    without: list[str] = []
    selectors: list[Selector] = [m.select for m in policy.modes]
    for host in inventory.hosts.values():
        if host.tags not in verdicts:
            instance = Instance(host.name, HOST_WORKLOAD, host.tags, host.tags)
            verdicts[host.tags] = any(selects(s, instance) for s in selectors)
        if not verdicts[host.tags]:
            without.append(host.name)
    if without:
        message = f"no mode selects {_some(without)}: they observe and drop nothing"
        yield warning(policy.modes[0].where if policy.modes else NOWHERE, "mode-missing", message, hint)


def find_peers_over_hosts(policy: Policy, inventory: Inventory | None) -> Iterator[Finding]:
    if inventory is None:
        return
    held = sorted((a.version, int(a), host.name) for host in inventory.hosts.values() for a in host.addresses)
    for peer in policy.peers.values():
        names: dict[str, None] = {}
        for network in peer.networks:
            last = int(network.broadcast_address)
            at = bisect_left(held, (network.version, int(network.network_address), ""))
            while at < len(held) and held[at][:2] <= (network.version, last):
                names[held[at][2]] = None
                at += 1
        if names:
            message = f"peer {peer.name} covers addresses of {_some(names)}: those are hosts and never this peer"
            hint = "nothing to do if that is meant; rules for these hosts go by tags"
            yield warning(peer.where, "peer-covers-hosts", message, hint)


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    shown = ", ".join(known[:5])
    more = f" and {len(known) - 5} more" if len(known) > 5 else ""
    return f"{len(known)} {'host' if len(known) == 1 else 'hosts'} ({shown}{more})"
