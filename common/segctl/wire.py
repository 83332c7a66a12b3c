"""Values to protobuf messages and back. Everything that comes in is checked: a bad field raises WireError by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from segctl.errors import WireError
from segctl.model.addresses import AddressSet
from segctl.model.findings import Finding, Position, Severity
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.inventory import Address
from segctl.model.policy import PROTOCOLS, Answer, Essentials, Mode, Network, PortRange, Process, ProcessKind
from segctl.policy.digest import host_policy_digest, host_policy_digest_before
from segctl.policy.source import SourceFile
from segctl.proto.v1 import hostpolicy_pb2

if TYPE_CHECKING:
    from segctl.proto.v1 import admin_pb2

PROTOCOL_VERSION = 3


def address_to_wire(address: Address) -> bytes:
    return address.packed


def address_from_wire(data: bytes) -> Address:
    if len(data) == 4:
        return IPv4Address(data)
    if len(data) == 16:
        return IPv6Address(data)
    raise WireError(f"an address has 4 or 16 bytes, not {len(data)}")


def network_to_wire(network: Network) -> hostpolicy_pb2.Network:
    return hostpolicy_pb2.Network(address=network.network_address.packed, prefix=network.prefixlen)


def network_from_wire(message: hostpolicy_pb2.Network) -> Network:
    address = address_from_wire(message.address)
    try:
        if isinstance(address, IPv4Address):
            return IPv4Network((address, message.prefix))
        return IPv6Network((address, message.prefix))
    except ValueError as e:
        raise WireError(f"network {address}/{message.prefix}: {e}") from e


def port_range_to_wire(port: PortRange) -> hostpolicy_pb2.PortRange:
    return hostpolicy_pb2.PortRange(protocol=port.protocol, low=port.low, high=port.high)


def port_range_from_wire(message: hostpolicy_pb2.PortRange) -> PortRange:
    top = 65535 if message.protocol in ("tcp", "udp") else 255
    for protocol in PROTOCOLS:
        if protocol == message.protocol and message.low <= message.high <= top:
            return PortRange(protocol, message.low, message.high)
    raise WireError(f"port range {message.protocol}/{message.low}-{message.high} is out of bounds")


def denied_service_from_wire(message: hostpolicy_pb2.PortRange) -> PortRange:
    """The service of a Denial: one port or type, or an IP protocol that no rule can name."""
    if message.low != message.high:
        raise WireError("a denial names one port, not a range")
    if message.protocol == "ip" and message.low <= 255:
        return PortRange("ip", message.low, message.high)
    return port_range_from_wire(message)


def host_policy_to_wire(value: HostPolicy) -> hostpolicy_pb2.HostPolicy:
    return hostpolicy_pb2.HostPolicy(
        host=value.host,
        generation=value.generation,
        policy_digest=value.policy_digest,
        workloads=[workload_to_wire(w) for w in value.workloads],
        groups=[group_to_wire(g) for g in value.groups],
        managed4=value.managed.v4,
        managed6=value.managed.v6,
        essentials=essentials_to_wire(value.essentials),
        digest=host_policy_digest(value),
    )


def group_to_wire(value: Group) -> hostpolicy_pb2.Group:
    networks = [network_to_wire(n) for n in value.networks]
    return hostpolicy_pb2.Group(name=value.name, networks=networks, hosts4=value.hosts.v4, hosts6=value.hosts.v6)


def essentials_to_wire(value: Essentials) -> hostpolicy_pb2.Essentials:
    return hostpolicy_pb2.Essentials(
        dns=[network_to_wire(n) for n in value.dns],
        ntp=[network_to_wire(n) for n in value.ntp],
        rescue=[network_to_wire(n) for n in value.rescue],
        rescue_ports=[port_range_to_wire(p) for p in value.rescue_ports],
    )


def host_policy_from_wire(message: hostpolicy_pb2.HostPolicy, *, stored: bool = False) -> HostPolicy:
    """Raises WireError when a field is out of bounds, a group is missing, or the digest does not fit the content.
    `stored`: its digest may be of the kind that protocol 2 had."""
    value = HostPolicy(
        host=message.host,
        generation=message.generation,
        policy_digest=message.policy_digest,
        workloads=tuple(_workload_from_wire(w) for w in message.workloads),
        groups=tuple(_group_from_wire(g) for g in message.groups),
        managed=addresses_from_wire("the enrolled addresses", message.managed4, message.managed6),
        essentials=Essentials(
            dns=tuple(network_from_wire(n) for n in message.essentials.dns),
            ntp=tuple(network_from_wire(n) for n in message.essentials.ntp),
            rescue=tuple(network_from_wire(n) for n in message.essentials.rescue),
            rescue_ports=tuple(port_range_from_wire(p) for p in message.essentials.rescue_ports),
        ),
    )
    names = {g.name for g in value.groups}
    missing = {e.group for w in value.workloads for e in (*w.ingress, *w.egress)} - names
    if missing:
        raise WireError(f"host policy refers to unknown groups: {', '.join(sorted(missing))}")
    if sum(w.process is None for w in value.workloads) != 1:
        raise WireError("host policy must hold the workload of the host itself exactly once")
    fits = host_policy_digest(value) == message.digest or (
        stored and host_policy_digest_before(value) == message.digest
    )
    if not fits:
        raise WireError("host policy does not fit its digest: damaged on the way, or made by an incompatible version")
    return value


def _group_from_wire(message: hostpolicy_pb2.Group) -> Group:
    hosts = addresses_from_wire(f"group {message.name!r}", message.hosts4, message.hosts6)
    return Group(message.name, tuple(network_from_wire(n) for n in message.networks), hosts)


def addresses_from_wire(what: str, v4: bytes, v6: bytes) -> AddressSet:
    try:
        return AddressSet.parse(v4, v6)
    except ValueError as e:
        raise WireError(f"{what}: {e}") from e


def workload_to_wire(value: LocalWorkload) -> hostpolicy_pb2.LocalWorkload:
    return hostpolicy_pb2.LocalWorkload(
        name=value.name,
        process_kind=value.process.kind.value if value.process else "",
        process_pattern=value.process.pattern if value.process else "",
        mode=value.mode.value,
        ingress=[entry_to_wire(e) for e in value.ingress],
        egress=[entry_to_wire(e) for e in value.egress],
        outgoing=value.outgoing.value,
        incoming=value.incoming.value,
    )


def _workload_from_wire(message: hostpolicy_pb2.LocalWorkload) -> LocalWorkload:
    try:
        mode = Mode(message.mode)
        process = Process(ProcessKind(message.process_kind), message.process_pattern) if message.process_kind else None
        outgoing, incoming = Answer(message.outgoing or Answer.REJECT), Answer(message.incoming or Answer.DROP)
    except ValueError as e:
        raise WireError(f"workload {message.name!r}: {e}") from e
    return LocalWorkload(
        name=message.name,
        process=process,
        mode=mode,
        ingress=tuple(_entry_from_wire(e) for e in message.ingress),
        egress=tuple(_entry_from_wire(e) for e in message.egress),
        outgoing=outgoing,
        incoming=incoming,
    )


def entry_to_wire(value: Entry) -> hostpolicy_pb2.Entry:
    message = entry_rest_to_wire(value)
    message.rule, message.group = value.rule, value.group
    return message


def entry_rest_to_wire(value: Entry) -> hostpolicy_pb2.Entry:
    """Without its rule and its group, the first fields."""
    ports = [port_range_to_wire(p) for p in value.ports]
    return hostpolicy_pb2.Entry(ports=ports, managed=value.managed, until=value.until)


def _entry_from_wire(message: hostpolicy_pb2.Entry) -> Entry:
    if not 0 <= message.until < 1 << 33:  # the year 2242: kernel time is signed nanoseconds
        raise WireError(f"rule {message.rule!r} ends at {message.until}, which is no time")
    ports = tuple(port_range_from_wire(p) for p in message.ports)
    return Entry(message.rule, message.group, ports, message.managed, message.until)


def findings_to_wire(findings: Iterable[Finding]) -> list[admin_pb2.Finding]:
    from segctl.proto.v1 import admin_pb2  # here: agents use this module too, and never the messages of operators

    return [
        admin_pb2.Finding(
            file=f.position.file,
            line=f.position.line,
            column=f.position.column,
            severity=f.severity.value,
            code=f.code,
            message=f.message,
            hint=f.hint,
        )
        for f in findings
    ]


def findings_from_wire(messages: Iterable[admin_pb2.Finding]) -> tuple[Finding, ...]:
    try:
        return tuple(
            Finding(Position(m.file, m.line, m.column), Severity(m.severity), m.code, m.message, m.hint)
            for m in messages
        )
    except ValueError as e:
        raise WireError(f"finding: {e}") from e


def source_to_wire(files: Sequence[SourceFile]) -> admin_pb2.PolicySource:
    from segctl.proto.v1 import admin_pb2

    return admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name=f.name, content=f.content) for f in files])


def source_from_wire(message: admin_pb2.PolicySource) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(f.name, f.content) for f in message.files)
