"""What a host policy says about one flow: the rule that permits it, and what becomes of it. Pure.

The kernel decides by sets; this decides by the same host policy, one flow at a time, so that a flow can bear its rule.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from heapq import merge
from typing import NamedTuple

from segctl.model.addresses import AddressSet, find
from segctl.model.hostpolicy import Entry, HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Essentials, Mode, Network

from segctl_agent.flows.values import PROTOCOL_NAMES, Verdict
from segctl_agent.identity import Direction


class Judgement(NamedTuple):
    """`passes`: not refused. `rule`: the first by name that permits it, "" for none."""

    passes: bool
    rule: str
    verdict: Verdict


class _Networks:
    """Sorted ranges of one family."""

    def __init__(self, networks: Iterable[Network], version: int) -> None:
        ends = sorted(_range(n) for n in networks if n.version == version)
        # The numbers of IPv6 addresses fit no array.
        self._low: Sequence[int] = array("Q", (low for low, _ in ends)) if version == 4 else [low for low, _ in ends]
        self._high: Sequence[int] = array("Q", (high for _, high in ends)) if version == 4 else [h for _, h in ends]

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._low, address) - 1
        return at >= 0 and address <= self._high[at]


def _holds(addresses: AddressSet, remote: bytes) -> bool:
    data = addresses.packed(4 if len(remote) == 4 else 6)
    at = find(data, remote)
    return data[at : at + len(remote)] == remote


def _range(network: Network) -> tuple[int, int]:
    # Not broadcast_address: it would stay cached in every network.
    low = int(network.network_address)
    return low, low | (1 << network.max_prefixlen - network.prefixlen) - 1


class _Entries:
    """The entries of one workload in one direction, by what they open; each list sorted by the name of the rule."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.exact: dict[tuple[str, int], list[Entry]] = {}
        self.ranges: dict[str, list[tuple[str, int, int, Entry]]] = {}
        for entry in sorted(entries, key=lambda e: e.rule):
            for ports in entry.ports:
                if ports.low == ports.high:
                    self.exact.setdefault((ports.protocol, ports.low), []).append(entry)
                else:
                    self.ranges.setdefault(ports.protocol, []).append((entry.rule, ports.low, ports.high, entry))

    def opening(self, protocol: str, port: int) -> Iterable[Entry]:
        wide = [e for _, low, high, e in self.ranges.get(protocol, ()) if low <= port <= high]
        return merge(self.exact.get((protocol, port), ()), wide, key=lambda e: e.rule)


class PolicyIndex:
    """One host policy, ready for questions; each part is indexed when it is first asked about. Addresses are 4 or 16
    bytes, protocols IP numbers."""

    def __init__(self, policy: HostPolicy) -> None:
        self.policy = policy
        self._workloads = {w.name: w for w in policy.workloads}
        self._groups = {g.name: g for g in policy.groups}
        self._entries: dict[tuple[Direction, str], _Entries] = {}
        self._networks: dict[tuple[str, str, int], _Networks] = {}

    def workload(self, name: str) -> LocalWorkload:
        """The workload of that name. Where the policy has none, its processes belong to `host`."""
        return self._workloads.get(name) or self._workloads[HOST_WORKLOAD]

    def permitting_rule(
        self, direction: Direction, workload: str, remote: bytes, protocol: int, port: int, now: float
    ) -> str | None:
        """The first rule by name that permits this at `now` (Unix time, seconds); None when no rule does. A peer's
        entry never speaks of an enrolled host's address (ADR 3)."""
        name = PROTOCOL_NAMES.get(protocol)
        if name is None:
            return None
        local = self.workload(workload)
        entries = self._entries.get((direction, local.name))
        if entries is None:
            entries = _Entries(local.ingress if direction == "in" else local.egress)
            self._entries[direction, local.name] = entries
        version, address = 4 if len(remote) == 4 else 6, int.from_bytes(remote, "big")
        for entry in entries.opening(name, port):
            if entry.until and entry.until <= now:
                continue
            if not entry.managed and _holds(self.policy.managed, remote):
                continue
            group = self._groups[entry.group]
            if _holds(group.hosts, remote) or address in self._index("group", group.name, group.networks, version):
                return entry.rule
        return None

    def judge(
        self, direction: Direction, workload: str, remote: bytes, protocol: int, port: int, now: float
    ) -> Judgement:
        """What becomes of a flow of this workload. Essentials are a question of their own."""
        rule = self.permitting_rule(direction, workload, remote, protocol, port, now)
        if rule is not None:
            return Judgement(True, rule, "allowed")
        mode = self.workload(workload).mode
        if mode is Mode.ENFORCE:
            return Judgement(False, "", "allowed")  # should it be seen to pass, an earlier policy allowed it
        return Judgement(True, "", "would-deny" if mode is Mode.TEST else "observed")

    def essential(self, direction: Direction, remote: bytes, protocol: int, port: int) -> bool:
        """Whether it passes as one of the declared essentials: DNS and NTP servers, the rescue list."""
        version, address = 4 if len(remote) == 4 else 6, int.from_bytes(remote, "big")
        declared: Essentials = self.policy.essentials
        name = PROTOCOL_NAMES.get(protocol, "")
        if direction == "in":
            opened = any(p.protocol == name and p.low <= port <= p.high for p in declared.rescue_ports)
            return opened and address in self._index("essential", "rescue", declared.rescue, version)
        if port == 53 and name in ("udp", "tcp"):
            return address in self._index("essential", "dns", declared.dns, version)
        return port == 123 and name == "udp" and address in self._index("essential", "ntp", declared.ntp, version)

    def _index(self, kind: str, name: str, networks: tuple[Network, ...], version: int) -> _Networks:
        key = (kind, name, version)
        found = self._networks.get(key)
        if found is None:
            found = self._networks[key] = _Networks(networks, version)
        return found


def permitting_rule(
    policy: HostPolicy, direction: Direction, workload: str, remote: bytes, protocol: int, port: int, now: float = 0.0
) -> str | None:
    """PolicyIndex.permitting_rule, for a single question."""
    return PolicyIndex(policy).permitting_rule(direction, workload, remote, protocol, port, now)
