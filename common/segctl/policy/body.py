"""What hosts hold in common, in parts that are compared, hashed and sent as they are.

A host policy is its header (host, generation, digest of the policy) and a *body*. Hosts with the same tags share one
body; bodies share the groups in it. A change of members makes a new `Members` and, for those who need it, a new `Body`
around the same rules: what did not change is the same object, and is neither hashed nor serialized again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials
from segctl.policy.digest import addresses_digest, body_digest, group_digest, host_digest, rules_digest, workload_text

Encoded = tuple[LocalWorkload, Sequence[bytes], Sequence[bytes]]
"""A workload without its entries, and those, incoming and outgoing."""


class RulesSource(Protocol):
    """What the workloads of `Rules` are made from. Nothing is made before it is needed."""

    def workloads(self) -> tuple[LocalWorkload, ...]: ...

    def texts(self) -> Sequence[str]:
        """The canonical text, in pieces (`digest.workload_text`)."""
        ...

    def names(self) -> frozenset[str]: ...

    def encoded(self, encode: Callable[[Entry], bytes]) -> Sequence[Encoded]:
        """For the wire. What `encode` made of an entry is kept with it, where others have it too."""
        ...


@dataclass(frozen=True, slots=True)
class _Made:
    made: tuple[LocalWorkload, ...]

    def workloads(self) -> tuple[LocalWorkload, ...]:
        return self.made

    def texts(self) -> Sequence[str]:
        return [workload_text(w) for w in self.made]

    def names(self) -> frozenset[str]:
        return frozenset(e.rule for w in self.made for e in (*w.ingress, *w.egress))

    def encoded(self, encode: Callable[[Entry], bytes]) -> Sequence[Encoded]:
        return [
            (replace(w, ingress=(), egress=()), [*map(encode, w.ingress)], [*map(encode, w.egress)]) for w in self.made
        ]


class Rules:
    """Workloads with their entries, and the essentials: what a policy says, whoever is in its groups."""

    def __init__(self, essentials: Essentials, source: RulesSource) -> None:
        self.essentials = essentials
        self._source = source
        self.wire: bytes | None = None  # kept by segctl.bodywire

    @classmethod
    def of(cls, essentials: Essentials, workloads: tuple[LocalWorkload, ...]) -> Rules:
        return cls(essentials, _Made(workloads))

    def encoded(self, encode: Callable[[Entry], bytes]) -> Sequence[Encoded]:
        return self._source.encoded(encode)

    @cached_property
    def workloads(self) -> tuple[LocalWorkload, ...]:
        return self._source.workloads()

    @cached_property
    def digest(self) -> bytes:
        return rules_digest(self.essentials, self._source.texts())

    @cached_property
    def names(self) -> frozenset[str]:
        """Of the rules that have an entry."""
        return self._source.names()


class Members:
    """A group, and what was made of it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.wire: bytes | None = None  # kept by segctl.bodywire
        self.since: tuple[Members, bytes | None] | None = None  # the same

    @cached_property
    def digest(self) -> bytes:
        return group_digest(self.group)


class Managed:
    """Enrolled addresses that are kept out of peers, and what was made of them."""

    def __init__(self, addresses: AddressSet) -> None:
        self.addresses = addresses
        self.wire: bytes | None = None  # kept by segctl.bodywire
        self.since: tuple[Managed, bytes | None] | None = None  # the same

    @cached_property
    def digest(self) -> bytes:
        return addresses_digest(self.addresses)


class Body:
    """A host policy without its header. `members` are in the order of their names."""

    def __init__(self, rules: Rules, members: tuple[Members, ...], managed: Managed) -> None:
        self.rules, self.members, self.managed = rules, members, managed
        self.since: tuple[Body, bytes | None] | None = None  # kept by segctl.bodywire

    @classmethod
    def of(cls, value: HostPolicy) -> Body:
        rules = Rules.of(value.essentials, value.workloads)
        return cls(rules, tuple(map(Members, value.groups)), Managed(value.managed))

    @cached_property
    def digest(self) -> bytes:
        return body_digest(self.rules.digest, [m.digest for m in self.members], self.managed.digest)

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
