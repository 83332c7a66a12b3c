"""A generation on trial, as the fleet sees it: which hosts take part, and how far each one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Policy


@dataclass(frozen=True, slots=True)
class Active:
    """The generation in force; number 0 is the empty policy before the first push, and is sent to nobody."""

    number: int = 0
    digest: str = ""
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Desired:
    """What one host must hold. `wire` is its HostPolicy message, serialized once; `policy` the value it was made of."""

    generation: int
    digest: str
    wire: bytes
    policy: HostPolicy | None = None


class Phase(Enum):
    """How far a host is to go with the generation on trial."""

    STAGED = "keeps it ready"
    WIDE = "also permits what it permits"
    TRIED = "holds it"


class Kind(Enum):
    HOLD = "put it in force and store it"
    STAGE = "keep it ready"
    TRY = "put it in force on trial"


@dataclass(frozen=True, slots=True)
class Order:
    """What a host is told to do with a policy. `accept_denials` belongs to TRY."""

    kind: Kind
    desired: Desired
    accept_denials: bool = False


@dataclass(slots=True)
class Trial:
    """`phases` names the hosts that take part. `drafts` and `wides` are what each must hold in the phases TRIED and
    WIDE; a host without a wide one has nothing to gain in that phase."""

    active: Active
    phases: dict[str, Phase]
    accept_denials: bool = False
    drafts: dict[str, Desired] = field(default_factory=dict)
    wides: dict[str, Desired] = field(default_factory=dict)

    def order(self, host: str) -> Order | None:
        """None where the host does not take part, or where it is not known yet what it must hold."""
        phase, draft = self.phases.get(host), self.drafts.get(host)
        if phase is None or draft is None:
            return None
        if phase is Phase.TRIED:
            return Order(Kind.TRY, draft, self.accept_denials)
        if phase is Phase.WIDE and host in self.wides:
            return Order(Kind.TRY, self.wides[host], self.accept_denials)
        return Order(Kind.STAGE, draft)

    def policies(self) -> Mapping[str, HostPolicy]:
        return MappingProxyType({h: d.policy for h, d in self.drafts.items() if d.policy is not None})
