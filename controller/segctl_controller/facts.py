"""What an agent says about its host, taken as hostile: bounded, cleaned, and never more than a claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from segctl.errors import WireError
from segctl.model.inventory import Address
from segctl.model.policy import PROTOCOLS, Essentials, Network
from segctl.proto.v1 import agent_pb2
from segctl.wire import address_from_wire

from segctl_controller.errors import LimitError
from segctl_controller.store.records import HostRecord

MOST_ADDRESSES = 256
MOST_UNITS = 4096
MOST_LISTENERS = 4096
MOST_WORKLOADS = 4096
LONGEST_PATH = 1024
LONGEST_NAME = 128
LONGEST_WHY = 500
IDENTIFIED = frozenset({"slice", "unit", "cgroup", "user", "group", "container", "executable", "rest"})
STRENGTHS = frozenset({"race-free", "closed-until-known", "best-effort"})
GUARDS = frozenset({"owned", "watched"})
UNKNOWN = "unknown"
"""What a word becomes that this controller does not know: an agent may be newer."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The addresses an agent claims, and the rest of its facts as a wire message without addresses.

    `mark_mask`: its bits of the conntrack mark; 0: an agent whose marks do not name decisions.
    """

    addresses: tuple[Address, ...]
    facts: bytes
    mark_mask: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """`refused` are addresses that do not become the host's, each with why and what to do."""

    accepted: tuple[Address, ...]
    refused: tuple[tuple[Address, str], ...]


def read_claims(message: agent_pb2.Facts) -> Claims:
    """Raises LimitError over the bounds, WireError for a malformed field. Drops addresses that no host can own."""
    _bounded("addresses", len(message.addresses), MOST_ADDRESSES)
    _bounded("units", len(message.units), MOST_UNITS)
    _bounded("listeners", len(message.listeners), MOST_LISTENERS)
    _short("kernel", message.kernel, LONGEST_NAME)
    _all_short("cgroup", [unit.cgroup for unit in message.units], LONGEST_PATH)
    _all_short("workload", [unit.workload for unit in message.units], LONGEST_NAME)
    for listener in message.listeners:
        _short("cgroup", listener.cgroup, LONGEST_PATH)
        _short("workload", listener.workload, LONGEST_NAME)
        _short("process", listener.process, LONGEST_NAME)
        address_from_wire(listener.address)
        if listener.protocol not in PROTOCOLS or listener.port > 65535:
            raise WireError(f"listener {listener.protocol[:20]!r} port {listener.port} does not exist")
    addresses = {address_from_wire(raw) for raw in message.addresses}
    kept = agent_pb2.Facts()
    kept.CopyFrom(message)
    kept.DiscardUnknownFields()
    kept.ClearField("addresses")
    del kept.workloads[:]
    kept.workloads.extend(_workloads(message.workloads))
    kept.table_guard = _known(message.table_guard, GUARDS)
    return Claims(_sorted(a for a in addresses if _ownable(a)), kept.SerializeToString(), message.mark_mask)


def _workloads(told: Sequence[agent_pb2.WorkloadFact]) -> list[agent_pb2.WorkloadFact]:
    _bounded("workloads", len(told), MOST_WORKLOADS)
    kept = []
    for fact in told:
        _short("workload", fact.name, LONGEST_NAME)
        _short("reason of a workload's strength", fact.why, LONGEST_WHY)
        kept.append(
            agent_pb2.WorkloadFact(
                name=fact.name,
                identified=_known(fact.identified, IDENTIFIED),
                strength=_known(fact.strength, STRENGTHS),
                why=" ".join(fact.why.split()),
            )
        )
    return kept


def _known(word: str, known: frozenset[str]) -> str:
    """Empty stays empty: it was not said."""
    return word if word in known or not word else UNKNOWN


def judge(
    host: HostRecord,
    claimed: Iterable[Address],
    holders: Mapping[Address, str],
    essentials: Essentials,
    controller: Iterable[Address],
    source: Address | None,
) -> Judged:
    """Which claimed addresses become the host's.

    What it holds already it keeps, so that a new policy never takes a host out of the fleet. `source` is where its
    stream comes from: the controller's own machine may be enrolled, and then speaks from the controller's address.
    """
    own = set(controller)
    accepted: list[Address] = []
    refused: list[tuple[Address, str]] = []
    for address in _sorted(claimed):
        why = _objection(host, address, holders, essentials, own, source)
        if why:
            refused.append((address, why))
        else:
            accepted.append(address)
    return Judged(tuple(accepted), tuple(refused))


def _objection(
    host: HostRecord,
    address: Address,
    holders: Mapping[Address, str],
    essentials: Essentials,
    controller: set[Address],
    source: Address | None,
) -> str:
    holder = holders.get(address)
    if holder is not None and holder != host.name:
        return f"host {holder} holds it; if {holder} is gone, run: segctl host remove {holder}"
    if host.networks and not _inside(address, host.networks):
        allowed = ", ".join(str(n) for n in host.networks)
        return f"its token allows only {allowed}; enrol it with a token that has --network for this address"
    if address in host.addresses:
        return ""
    granted = any(n.prefixlen == n.max_prefixlen and address == n.network_address for n in host.networks)
    if granted:
        return ""
    for name, networks in (("dns", essentials.dns), ("ntp", essentials.ntp), ("rescue", essentials.rescue)):
        if _inside(address, networks):
            return (
                f"the policy lists it under essentials ({name}); if this host is that server, enrol it with a token "
                f"that has --network {address}/{address.max_prefixlen}"
            )
    if address in controller and source != address and not (source and source.is_loopback):
        return "it is the controller's own address"
    return ""


def _ownable(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return False
    broadcast = address == IPv4Address("255.255.255.255")
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return not (special or broadcast)


def _inside(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _sorted(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(set(addresses), key=lambda a: (a.version, int(a))))


def _bounded(what: str, count: int, most: int) -> None:
    if count > most:
        raise LimitError(f"the facts hold {count} {what}, at most {most} are taken")


def _all_short(what: str, texts: Sequence[str], most: int) -> None:
    _short(what, max(texts, key=len, default=""), most)


def _short(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise LimitError(f"a {what} in the facts has {len(text)} characters, at most {most} are taken")
