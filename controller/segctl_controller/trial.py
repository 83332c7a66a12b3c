"""A generation on trial, as the fleet sees it: which hosts take part, and how far each one is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from segctl.bodywire import host_policy_bytes
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Policy
from segctl.policy.body import Body
from segctl.policy.widen import widen

if TYPE_CHECKING:
    from segctl_controller.compilation import Compilation


@dataclass(frozen=True, slots=True)
class Active:
    """The generation in force; number 0 is the empty policy before the first push, and is sent to nobody."""

    number: int = 0
    digest: str = ""
    policy: Policy = field(default_factory=Policy)


class Desired:
    """What one host must hold: a header of its own, and a body that it may share with others."""

    __slots__ = ("_digest", "body", "generation", "host", "policy_digest")

    def __init__(self, host: str, generation: int, policy_digest: str, body: Body) -> None:
        self.host, self.generation, self.policy_digest, self.body = host, generation, policy_digest, body
        self._digest = ""

    @classmethod
    def of(cls, policy: HostPolicy) -> Desired:
        return cls(policy.host, policy.generation, policy.policy_digest, Body.of(policy))

    @property
    def digest(self) -> str:
        """Of the host policy."""
        self._digest = self._digest or self.body.host_digest(self.host, self.generation, self.policy_digest)
        return self._digest

    @property
    def wire(self) -> bytes:
        """A serialized HostPolicy, put together anew: ten thousand of them would fill the memory."""
        return host_policy_bytes(self.body, self.host, self.generation, self.policy_digest)

    @property
    def policy(self) -> HostPolicy:
        return self.body.policy(self.host, self.generation, self.policy_digest)


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
    made: Compilation | None = None
    drafts: dict[str, Desired] = field(default_factory=dict)
    wides: dict[str, Desired] = field(default_factory=dict)
    _widened: dict[tuple[int, int], tuple[Body, Body, Body | None]] = field(default_factory=dict)

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

    def widened(self, old: Desired, new: Desired) -> Body | None:
        """What a host holds between the two; None where it has nothing to gain. Worked out once for all hosts alike."""
        key = (id(old.body), id(new.body))
        if key not in self._widened:
            before = old.policy
            wide = widen(before, new.policy)
            gains = wide != replace(before, generation=wide.generation, policy_digest=wide.policy_digest)
            self._widened[key] = (old.body, new.body, Body.of(wide) if gains else None)
        return self._widened[key][2]
