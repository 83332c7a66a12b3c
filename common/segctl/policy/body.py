"""What hosts hold in common, in parts that are compared, hashed and sent as they are.

A host policy is its header (host, generation, digest of the policy) and a *body*. Hosts with the same tags share one
body; bodies share the groups in it, and groups that hold the same hosts share those. A change of members makes new
`Hosts`, a new `Members` for each group that has them and, for those who need it, a new `Body` around the same rules:
what did not change is the same object, and is neither hashed nor serialized again.

There are ten thousands of these, so they have slots, and remember what was made of them without `cached_property`,
which takes a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Network
from segctl.policy.decide import Direction
from segctl.policy.digest import (
    addresses_digest,
    body_digest,
    group_digest,
    host_digest,
    rules_digest,
    rules_text,
)

Encode = Callable[[Direction, Entry], tuple[bytes, bytes]]
"""An entry on the wire, before and after the name of its group."""
Encoded = tuple[LocalWorkload, bytes]
"""A workload without its entries, and those on the wire, incoming ones first."""


class RulesSource(Protocol):
    """What the workloads of `Rules` are made from. Nothing is made before it is needed."""

    def workloads(self) -> tuple[LocalWorkload, ...]: ...

    def text(self) -> str:
        """The canonical text of the essentials and the workloads (`digest.rules_text`)."""
        ...

    def names(self) -> frozenset[str]: ...

    def encoded(self, encode: Encode) -> Sequence[Encoded]:
        """For the wire. Where entries differ in their group alone, and the names of those are as long as each other,
        `encode` is asked once."""
        ...


@dataclass(frozen=True, slots=True)
class _Made:
    essentials: Essentials
    made: tuple[LocalWorkload, ...]

    def workloads(self) -> tuple[LocalWorkload, ...]:
        return self.made

    def text(self) -> str:
        return rules_text(self.essentials, self.made)

    def names(self) -> frozenset[str]:
        return frozenset(e.rule for w in self.made for e in (*w.ingress, *w.egress))

    def encoded(self, encode: Encode) -> Sequence[Encoded]:
        return [(replace(w, ingress=(), egress=()), b"".join(self._wires(w, encode))) for w in self.made]

    def _wires(self, workload: LocalWorkload, encode: Encode) -> Iterator[bytes]:
        ways: tuple[Direction, Direction] = ("ingress", "egress")
        for way, entries in zip(ways, (workload.ingress, workload.egress), strict=True):
            for entry in entries:
                before, after = encode(way, entry)
                yield before + entry.group.encode() + after


class Rules:
    """Workloads with their entries, and the essentials: what a policy says, whoever is in its groups."""

    __slots__ = ("_digest", "_names", "_source", "_workloads", "essentials", "wire")

    def __init__(self, essentials: Essentials, source: RulesSource) -> None:
        self.essentials = essentials
        self._source = source
        self._workloads: tuple[LocalWorkload, ...] | None = None
        self._digest: bytes | None = None
        self._names: frozenset[str] | None = None
        self.wire: bytes | None = None  # kept by segctl.bodywire

    @classmethod
    def of(cls, essentials: Essentials, workloads: tuple[LocalWorkload, ...]) -> Rules:
        return cls(essentials, _Made(essentials, workloads))

    def encoded(self, encode: Encode) -> Sequence[Encoded]:
        return self._source.encoded(encode)

    @property
    def workloads(self) -> tuple[LocalWorkload, ...]:
        if self._workloads is None:
            self._workloads = self._source.workloads()
        return self._workloads

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = rules_digest(self._source.text())
        return self._digest

    @property
    def names(self) -> frozenset[str]:
        """Of the rules that have an entry."""
        if self._names is None:
            self._names = self._source.names()
        return self._names


class Hosts:
    """Addresses of enrolled hosts, for all groups that hold just these."""

    __slots__ = ("_digest", "addresses")

    def __init__(self, addresses: AddressSet) -> None:
        self.addresses = addresses
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = addresses_digest(self.addresses)
        return self._digest


class Members:
    """A group, and what was made of it."""

    __slots__ = ("_digest", "_group", "hosts", "name", "networks", "since", "wire")

    def __init__(self, name: str, networks: tuple[Network, ...], hosts: Hosts) -> None:
        """`networks` are wider than one address: see `Group`."""
        self.name, self.networks, self.hosts = name, networks, hosts
        self._digest: bytes | None = None
        self._group: Group | None = None
        self.wire: bytes | None = None  # kept by segctl.bodywire
        self.since: tuple[Members, bytes | None] | None = None  # the same

    @classmethod
    def of(cls, group: Group) -> Members:
        return cls(group.name, group.networks, Hosts(group.hosts))

    @property
    def group(self) -> Group:
        if self._group is None:
            self._group = Group(self.name, self.networks, self.hosts.addresses)
        return self._group

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = group_digest(self.name, self.networks, self.hosts.digest)
        return self._digest


class Managed(Hosts):
    """Enrolled addresses that are kept out of peers, and what was made of them."""

    __slots__ = ("since", "wire")

    def __init__(self, addresses: AddressSet) -> None:
        super().__init__(addresses)
        self.wire: bytes | None = None  # kept by segctl.bodywire
        self.since: tuple[Managed, bytes | None] | None = None  # the same


class Body:
    """A host policy without its header. `members` are in the order of their names."""

    __slots__ = ("_digest", "managed", "members", "rules", "since")

    def __init__(self, rules: Rules, members: tuple[Members, ...], managed: Managed) -> None:
        self.rules, self.members, self.managed = rules, members, managed
        self._digest: bytes | None = None
        self.since: tuple[Body, bytes | None] | None = None  # kept by segctl.bodywire

    @classmethod
    def of(cls, value: HostPolicy) -> Body:
        rules = Rules.of(value.essentials, value.workloads)
        return cls(rules, tuple(map(Members.of, value.groups)), Managed(value.managed))

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            groups = [m._digest or m.digest for m in self.members]
            self._digest = body_digest(self.rules.digest, groups, self.managed.digest)
        return self._digest

    def host_digest(self, host: str, generation: int, policy_digest: str) -> str:
        return host_digest(host, generation, policy_digest, self.digest)

    def policy(self, host: str, generation: int, policy_digest: str) -> HostPolicy:
        return HostPolicy(
            host=host,
            generation=generation,
            policy_digest=policy_digest,
            workloads=self.rules.workloads,
            groups=tuple(m.group for m in self.members),
            managed=self.managed.addresses,
            essentials=self.rules.essentials,
        )
