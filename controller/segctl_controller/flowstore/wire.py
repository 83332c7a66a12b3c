"""Addresses and services as the flow store holds them, and as the policy speaks of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from segctl.model.inventory import Address
from segctl.model.policy import PortRange

from segctl_controller.flowstore.records import MAPPED

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
"""https://www.iana.org/assignments/protocol-numbers"""
_NAMES = {number: name for name, number in PROTOCOLS.items()}


def address_of(remote: bytes) -> Address:
    """Of 16 bytes."""
    return IPv4Address(remote[12:]) if remote.startswith(MAPPED) else IPv6Address(remote)


def remote_of(address: Address) -> bytes:
    """16 bytes."""
    return MAPPED + address.packed if address.version == 4 else address.packed


def remotes_of(network: IPv4Network | IPv6Network) -> tuple[bytes, bytes]:
    """The first and the last address."""
    return remote_of(network.network_address), remote_of(network.broadcast_address)


def service_of(protocol: int, port: int) -> PortRange:
    """As denials name it: other IP protocols are `ip` with their number."""
    name = _NAMES.get(protocol)
    return PortRange(name, port, port) if name else PortRange("ip", protocol, protocol)  # type: ignore[arg-type]
