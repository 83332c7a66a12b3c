"""One simulated agent: what an agent says on its session, without a kernel behind it.

The only place that knows the messages of a session. An agent here believes what it is told: it acknowledges the digest
that stands in a policy instead of computing it, unless it is to verify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from segctl.bodywire import apply_delta
from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import hostpolicy_pb2 as hp
from segctl.wire import PROTOCOL_VERSION, host_policy_from_wire

VERSION = "simulated"
SESSION, REPORT = "/segctl.v1.Agent/Session", "/segctl.v1.Agent/Report"
HEARTBEAT = pb.AgentMessage(heartbeat=pb.Heartbeat()).SerializeToString()
KERNEL_DIGEST = "5" * 64
APPLY_US = 900
LISTENERS = (22, 443, 8080, 9100)
"""Ports that every simulated host listens on."""
UNITS = tuple(f"system.slice/service-{number:02d}.service" for number in range(25))
"""Cgroups of the services that every simulated host runs."""


@dataclass(slots=True)
class Held:
    """What the agent would have in its kernel and on its disk."""

    generation: int = 0
    digest: str = ""
    confirmed: int = 0


@dataclass(slots=True)
class Conversation:
    """What to answer to each message. `on_ack` is called with whether the acknowledged policy is stored."""

    addresses: tuple[Address, ...]
    on_ack: Callable[[bool], None]
    verify: bool = False
    held: Held = field(default_factory=Held)
    heartbeat_seconds: int = 0
    _parts: list[bytes] = field(default_factory=list)
    _greeting: bytes = b""
    _values: dict[str, HostPolicy] = field(default_factory=dict)  # held and staged, by digest; only to verify

    def hello(self) -> bytes:
        if not self._greeting:
            hello = pb.Hello(
                agent_version=VERSION, protocol=PROTOCOL_VERSION, boot_id=VERSION, facts=self._facts(self.addresses)
            )
            self._greeting = pb.AgentMessage(hello=hello).SerializeToString()
        held = pb.Hello(generation=self.held.generation, digest=self.held.digest, confirmed=self.held.confirmed)
        # Fields of one message may follow in a second copy of it: what never changes is serialized once.
        return self._greeting + pb.AgentMessage(hello=held).SerializeToString()

    def facts(self, more: Iterable[Address] = ()) -> bytes:
        """Tells that the host holds `more` addresses beside its own."""
        return pb.AgentMessage(facts=self._facts((*self.addresses, *more))).SerializeToString()

    def answer(self, data: bytes) -> tuple[bytes, ...]:
        """The serialized answers to one serialized message; raises WireError when it is to verify and cannot."""
        message = pb.ControllerMessage.FromString(data)
        match message.WhichOneof("kind"):
            case "heartbeat":
                return (HEARTBEAT,)
            case "policy":
                return (self._policy(message.policy),)
            case "delta":
                return (self._delta(message.delta),)
            case "chunk":
                return self._chunk(message.chunk)
            case "activate":
                return (self._hold(message.activate.generation, message.activate.digest, stored=False),)
            case "confirm":
                return (self._hold(message.confirm.generation, message.confirm.digest, stored=True),)
            case "take_back":
                self.held.generation, self.held.digest = 0, ""  # only sent where nothing was in force before
            case "welcome":
                self.heartbeat_seconds = message.welcome.heartbeat_seconds
            case "probe":
                reply = pb.ProbeReply(id=message.probe.id, error="a simulated agent has no kernel to ask")
                return (pb.AgentMessage(probe=reply).SerializeToString(),)
            case "impact" if not message.impact.more:
                return (pb.AgentMessage(impact=pb.ImpactReply(id=message.impact.id)).SerializeToString(),)
        return ()

    def _chunk(self, chunk: pb.Chunk) -> tuple[bytes, ...]:
        self._parts.append(chunk.data)
        if chunk.more:
            return ()
        whole = hp.HostPolicy.FromString(b"".join(self._parts))
        self._parts.clear()
        return (self._policy(whole),)

    def _policy(self, policy: hp.HostPolicy) -> bytes:
        if self.verify:
            self._values[policy.digest] = host_policy_from_wire(policy)
        if policy.stage:
            staged = pb.Staged(generation=policy.generation, digest=policy.digest)
            return pb.AgentMessage(staged=staged).SerializeToString()
        return self._hold(policy.generation, policy.digest, stored=True)

    def _delta(self, delta: hp.HostDelta) -> bytes:
        if delta.base != self.held.digest:
            return pb.AgentMessage(resend=pb.Resend(digest=delta.digest)).SerializeToString()
        if self.verify:
            self._values[delta.digest] = apply_delta(self._values[delta.base], delta)
        return self._hold(delta.generation, delta.digest, stored=True)

    def _hold(self, generation: int, digest: str, *, stored: bool) -> bytes:
        self.held.generation, self.held.digest = generation, digest
        if stored:
            self.held.confirmed = generation
            self._values = {digest: self._values[digest]} if self.verify else {}
        self.on_ack(stored)
        ack = pb.Ack(
            generation=generation, digest=digest, kernel_digest=KERNEL_DIGEST, apply_us=APPLY_US, stored=stored
        )
        return pb.AgentMessage(ack=ack).SerializeToString()

    def _facts(self, addresses: Iterable[Address]) -> pb.Facts:
        return pb.Facts(
            addresses=[a.packed for a in addresses],
            units=[pb.UnitFact(cgroup=unit, workload="host") for unit in UNITS],
            listeners=[pb.Listener(protocol="tcp", address=bytes(4), port=p, workload="host") for p in LISTENERS],
            kernel="6.1.0",
            workloads=[pb.WorkloadFact(name="host", identified="rest", strength="closed-until-known")],
            mark_mask=0xFF,
        )
