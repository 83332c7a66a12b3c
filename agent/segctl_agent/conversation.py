"""What the agent and its controller say to each other, without I/O: messages in, intentions out.

Anything a controller sends is checked here before it can reach the kernel: the host's name, the digest, the size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from segctl import wire
from segctl.bodywire import apply_delta
from segctl.errors import WireError
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import hostpolicy_pb2 as hp

PROTOCOL = wire.PROTOCOL_VERSION
MAX_POLICY_BYTES = 64 << 20
MAX_DRAFTS = 4
"""Drafts that come in parts at one time; all of them together are bounded like one policy."""
DEFAULT_HEARTBEAT_SECONDS = 5
SHORTEST_SILENCE, LONGEST_SILENCE = 1, 600
"""Seconds without a word of the controller that a trial may last."""
LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class InForce:
    """What the kernel holds: generation 0 and an empty digest when it holds nothing of ours. `released`: who released
    the host and when, empty when nobody did. `confirmed`: the generation that a restart puts in force; another one than
    the kernel's while that is on trial."""

    generation: int = 0
    digest: str = ""
    released: str = ""
    confirmed: int = 0


@dataclass(frozen=True, slots=True)
class Greeted:
    heartbeat_seconds: int


@dataclass(frozen=True, slots=True)
class NewPolicy:
    """To be put in force, or to be kept ready (`stage`)."""

    policy: HostPolicy
    digest: str
    stage: bool = False


@dataclass(frozen=True, slots=True)
class Activation:
    """The policy that was staged is to be in force, on trial. `silence` is in seconds."""

    generation: int
    digest: str
    silence: float
    accept_denials: bool = False


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The policy on trial stays."""

    generation: int
    digest: str


@dataclass(frozen=True, slots=True)
class RefusedPolicy:
    """A policy that must not be applied, with the answer to give."""

    generation: int
    digest: str
    reason: str
    stage: bool = False


@dataclass(frozen=True, slots=True)
class Unfit:
    """A change of members that is not of what this host holds, with the digest it should have led to."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImpactAsked:
    """Which live connections the host policy serialized in `draft` would cut, `limit` of them by name."""

    id: int
    draft: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The policy on trial is to be taken back."""

    generation: int
    digest: str
    reason: str


Order = NewPolicy | Activation | Confirmation | Withdrawal
Intention = Greeted | Order | RefusedPolicy | Unfit | pb.ProbeRequest | pb.RenewSoon | ImpactAsked | pb.ImpactReply


class ProtocolError(WireError):
    """The other side does not speak as agreed: the session ends and is tried anew."""


@dataclass(slots=True)
class Conversation:
    """One session's state, for the host named `host`."""

    host: str
    greeted: bool = False
    _told: NewPolicy | None = None
    _parts: bytearray = field(default_factory=bytearray)
    _drafts: dict[int, bytearray] = field(default_factory=dict)

    def receive(
        self, message: pb.ControllerMessage, in_force: InForce, held: HostPolicy | None = None
    ) -> Intention | None:
        """Raises ProtocolError when the session cannot go on. None: nothing to do. `held`: the host policy in force."""
        kind = message.WhichOneof("kind")
        if kind == "welcome":
            return self._welcome(message.welcome)
        if not self.greeted:
            raise ProtocolError(f"the controller spoke ({kind}) before its welcome: is it a segctl controller?")
        if kind == "policy":
            return self._policy(message.policy, in_force)
        if kind == "delta":
            return self._delta(message.delta, in_force, held)
        if kind == "chunk":
            return self._chunk(message.chunk, in_force)
        if kind == "probe":
            return message.probe
        if kind == "renew":
            return message.renew
        if kind == "impact":
            return self._impact(message.impact)
        if kind == "activate":
            asked = message.activate
            silence = min(max(asked.silence_seconds, SHORTEST_SILENCE), LONGEST_SILENCE)
            return Activation(asked.generation, asked.digest, silence, asked.accept_denials)
        if kind == "confirm":
            return Confirmation(message.confirm.generation, message.confirm.digest)
        if kind == "take_back":
            back = message.take_back
            return Withdrawal(back.generation, back.digest, back.reason[:LONGEST_REASON])
        return None

    def _welcome(self, welcome: pb.Welcome) -> Greeted:
        if welcome.protocol != PROTOCOL:
            raise ProtocolError(
                f"the controller speaks protocol {welcome.protocol}, this agent {PROTOCOL}: upgrade the older one"
            )
        if welcome.host != self.host:
            raise ProtocolError(
                f"the controller takes this host for {welcome.host!r}, its certificate says {self.host!r}: enrol it "
                "again with `segctl-agent enrol --replace`"
            )
        self.greeted = True
        return Greeted(welcome.heartbeat_seconds or DEFAULT_HEARTBEAT_SECONDS)

    def _chunk(self, chunk: pb.Chunk, in_force: InForce) -> NewPolicy | RefusedPolicy | None:
        self._parts += chunk.data
        if len(self._parts) > MAX_POLICY_BYTES:
            self._parts.clear()
            raise ProtocolError(f"a policy in chunks exceeds {MAX_POLICY_BYTES >> 20} MiB")
        if chunk.more:
            return None
        content = bytes(self._parts)
        self._parts.clear()
        try:
            message = hp.HostPolicy.FromString(content)
        except DecodeError as error:
            raise ProtocolError("a policy in chunks does not decode") from error
        return self._policy(message, in_force)

    def _impact(self, part: pb.ImpactRequest) -> ImpactAsked | pb.ImpactReply | None:
        """A draft that is too large is refused, not the session."""
        if part.id not in self._drafts and len(self._drafts) >= MAX_DRAFTS:
            return pb.ImpactReply(id=part.id, error=f"{MAX_DRAFTS} drafts are on their way already: ask again")
        draft = self._drafts.setdefault(part.id, bytearray())
        draft += part.draft
        if sum(map(len, self._drafts.values())) > MAX_POLICY_BYTES:
            del self._drafts[part.id]
            error = f"the draft exceeds {MAX_POLICY_BYTES >> 20} MiB, what is on its way with it included"
            return pb.ImpactReply(id=part.id, error=error)
        if part.more:
            return None
        del self._drafts[part.id]
        return ImpactAsked(part.id, bytes(draft), part.limit)

    def _policy(self, message: hp.HostPolicy, in_force: InForce) -> NewPolicy | RefusedPolicy:
        def refused(reason: str) -> RefusedPolicy:
            return RefusedPolicy(message.generation, message.digest, reason, message.stage)

        if message.host != self.host:
            return refused(f"this policy is for the host {message.host!r}, this is {self.host!r}: nothing was changed")
        try:
            policy = wire.host_policy_from_wire(message)
        except WireError as error:
            return refused(f"the policy does not hold what it says: {error}")
        if policy.generation < in_force.confirmed:
            return refused(
                f"generation {policy.generation} is older than {in_force.confirmed}, which this host holds: a rollback "
                "takes a new number. If the controller was restored from a backup, push once more: the number will be "
                "higher than any that a host holds"
            )
        new = NewPolicy(policy, message.digest, message.stage)
        if not message.stage:
            self._told = new
        return new

    def _delta(self, delta: hp.HostDelta, in_force: InForce, held: HostPolicy | None) -> NewPolicy | Unfit:
        """Of what was told last, which may wait to be put in force, or of what is in force."""
        base = self._told.policy if self._told is not None and self._told.digest == delta.base else None
        if base is None and in_force.digest == delta.base:
            base = held
        if base is None or base.generation < in_force.confirmed:
            return Unfit(delta.digest, "it changes a host policy that this host does not hold")
        try:
            policy = apply_delta(base, delta)
        except WireError as error:
            return Unfit(delta.digest, str(error))
        self._told = NewPolicy(policy, delta.digest)
        return self._told


def outlived(waiting: Iterable[Order], newest: Order) -> list[Order]:
    """Which orders are still to be followed before the newest one. A policy takes the place of another that waits for
    the same, and of what was to be tried out; one that is to be put in force also of what was to be confirmed."""
    if not isinstance(newest, NewPolicy):
        return list(waiting)
    if newest.stage:
        ends = Confirmation | Withdrawal
        return [o for o in waiting if isinstance(o, ends) or (isinstance(o, NewPolicy) and not o.stage)]
    return [o for o in waiting if isinstance(o, NewPolicy) and o.stage]


def changed(in_force: InForce) -> pb.AgentMessage:
    """What to say when an operator released the host, or ended that."""
    return pb.AgentMessage(
        in_force=pb.InForce(generation=in_force.generation, digest=in_force.digest, released=in_force.released)
    )


def ack(
    generation: int, digest: str, kernel_digest: str, apply_us: int, notes: tuple[str, ...], *, stored: bool
) -> pb.AgentMessage:
    return pb.AgentMessage(
        ack=pb.Ack(
            generation=generation,
            digest=digest,
            kernel_digest=kernel_digest,
            apply_us=apply_us,
            notes=notes,
            stored=stored,
        )
    )


def staged(generation: int, digest: str, errors: tuple[str, ...] = ()) -> pb.AgentMessage:
    """Without errors: the kernel would take it."""
    return pb.AgentMessage(staged=pb.Staged(generation=generation, digest=digest, errors=errors))


def trial_ended(generation: int, digest: str, reason: str, in_force: InForce) -> pb.AgentMessage:
    """The agent took back what was on trial."""
    return pb.AgentMessage(
        trial_ended=pb.TrialEnded(
            generation=generation, digest=digest, reason=reason[:LONGEST_REASON], active_generation=in_force.generation
        )
    )


def nack(generation: int, digest: str, errors: tuple[str, ...], in_force: InForce) -> pb.AgentMessage:
    return pb.AgentMessage(
        nack=pb.Nack(
            generation=generation,
            digest=digest,
            errors=errors,
            active_generation=in_force.generation,
            active_digest=in_force.digest,
        )
    )
