"""The enrolled hosts as the controller knows them. Tags and names come from its records, never from an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from segctl.model.policy import Tags

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Host:
    """An enrolled server: its name, its tags, and the addresses it holds (unique in the fleet, sorted)."""

    name: str
    tags: Tags
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    hosts: Mapping[str, Host] = field(default_factory=dict)

    def holder(self, address: Address) -> Host | None:
        """The host that holds `address`, or None for an unmanaged address."""
        return next((h for h in self.hosts.values() if address in h.addresses), None)
