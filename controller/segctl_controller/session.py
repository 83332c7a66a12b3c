"""One agent's stream: what waits to be sent on it, and what was."""

from __future__ import annotations

import asyncio

from segctl.errors import SegctlError
from segctl.proto.v1 import agent_pb2

from segctl_controller.contest import Origin
from segctl_controller.ending import Ending
from segctl_controller.errors import SilentPeerError
from segctl_controller.facts import Claims
from segctl_controller.messages import delta_messages, draft_messages, policy_messages
from segctl_controller.questions import Questions
from segctl_controller.trial import Desired, Kind, Order
from segctl_controller.wake import Wake

SILENT_INTERVALS = 3
MOST_PROBES = 64
MOST_IMPACTS = 4
REMEMBERED = 16
LONGEST_REASON = 500
HEARTBEAT = agent_pb2.ControllerMessage(heartbeat=agent_pb2.Heartbeat()).SerializeToString()


class Session:
    """One stream. Only the newest orders wait, at most one of a kind: a slow agent gets the latest, never a queue. What
    the agent was told already is not told again."""

    def __init__(
        self,
        host: str,
        origin: Origin,
        heartbeat: float,
        previews: bool = False,
        holds: str = "",
        calm: float = 0.0,
    ) -> None:
        """`heartbeat` is in seconds; `calm`, where it is longer, is the one of a host that has nothing on trial.
        `holds`: the digest of the host policy that is in force there, as the agent says."""
        self._host = host
        self._previews = previews
        self._origin = origin
        self._heartbeat, self._calm = heartbeat, max(heartbeat, calm)
        self._now = asyncio.get_running_loop().time
        self._heard_at = self._wrote_at = self._now()
        self._writing = self._beats = self._handling = False
        self._orders: tuple[Order, ...] = ()
        self._hold: Order | None = None
        self._held = holds  # digests of what the agent was told to hold, keep ready, try
        self._staged = self._tried = ""
        self._base: Desired | None = None  # what it was told to hold, which changes of members build upon
        self._proves = False  # it was told on this stream
        self._withdrawn = ""
        self._probes: list[agent_pb2.ProbeRequest] = []
        self._drafts: dict[int, list[bytes]] = {}
        self._renew: agent_pb2.RenewSoon | None = None
        self._asked_to_renew = False
        self.probes: Questions[agent_pb2.ProbeReply] = Questions(host, MOST_PROBES)
        self.impacts: Questions[agent_pb2.ImpactReply] = Questions(host, MOST_IMPACTS)
        self._wake = Wake()
        self.ended = Ending()
        self._sent: dict[str, int] = {}
        self._claims: Claims | None = None

    @property
    def host(self) -> str:
        return self._host

    @property
    def origin(self) -> Origin:
        return self._origin

    @property
    def lives(self) -> bool:
        """Its agent was heard from within the heartbeat interval."""
        return self._now() - self._heard_at <= self._calm

    def heard(self, handling: bool = False) -> None:
        """A message came, and is being handled, or was: its agent is not silent as long as nothing is read."""
        self._heard_at = self._now()
        self._handling = handling

    def offer(self, orders: tuple[Order, ...], withdrawn: str = "") -> None:
        """The newest orders. One to hold something is followed even when others come before it was sent: it may confirm
        what is on trial. `withdrawn`: why what is on trial is to be taken back, where there is nothing to hold."""
        hold = next((o for o in orders if o.kind is Kind.HOLD), None)
        if hold is not None:
            self._hold = hold
        elif withdrawn:
            self._withdrawn = withdrawn
        self._orders = tuple(o for o in orders if o.kind is not Kind.HOLD)
        self._wake.set()

    def withdraw(self, generation: int, digest: str, reason: str) -> None:
        """The agent has something on trial since another stream, and is to take it back."""
        self._sent[digest] = generation
        self._tried, self._withdrawn = digest, reason
        self._wake.set()

    def repeat(self) -> None:
        """What the agent was told holds no more: the next orders are told whatever they are."""
        self._held = self._staged = self._tried = ""
        self._base = None

    def renew_soon(self, within: int) -> None:
        """Once a session, the agent is asked for a renewal within so many seconds."""
        if not self._asked_to_renew:
            self._asked_to_renew, self._renew = True, agent_pb2.RenewSoon(within_seconds=within)
            self._wake.set()

    def end(self, reason: SegctlError) -> None:
        self.ended.end(reason)

    async def probe(self, request: agent_pb2.ProbeRequest) -> agent_pb2.ProbeReply:
        """Ask the agent; the caller sets the timeout. Raises LimitError when too many questions are open."""
        with self.probes.ask() as (number, reply):
            question = agent_pb2.ProbeRequest()
            question.CopyFrom(request)
            question.id = number
            self._probes.append(question)
            self._wake.set()
            return await reply

    @property
    def previews(self) -> bool:
        """Its agent can tell what a draft would cut: one whose marks name decisions. Others would not answer."""
        return self._previews

    async def impact(self, draft: bytes, limit: int) -> agent_pb2.ImpactReply:
        """Ask what the host policy `draft`, serialized, would cut; the caller sets the timeout. A draft that was not
        begun to be sent by then is not sent any more. Raises LimitError when too many questions are open."""
        with self.impacts.ask() as (number, reply):
            self._drafts[number] = draft_messages(number, draft, limit)
            self._wake.set()
            try:
                return await reply
            finally:
                self._drafts.pop(number, None)

    def put_claims(self, claims: Claims) -> None:
        """The newest facts take the place of those that still wait."""
        self._previews = bool(claims.mark_mask)
        self._claims = claims

    def take_claims(self) -> Claims | None:
        claims, self._claims = self._claims, None
        return claims

    def sent_generation(self, digest: str) -> int | None:
        """The generation of a policy that was sent on this stream, by its digest."""
        return self._sent.get(digest)

    async def next_messages(self) -> list[bytes]:
        """What to send next: questions and the newest policy, or a heartbeat."""
        await self._wake.wait()
        messages = [agent_pb2.ControllerMessage(probe=probe).SerializeToString() for probe in self._probes]
        self._probes.clear()
        hold, self._hold = self._hold, None
        orders, self._orders = self._orders, ()
        for order in (*((hold,) if hold is not None else ()), *orders):
            messages.extend(self._ordered(order))
        if self._withdrawn:
            messages.extend(self._withdrawal())
        if self._renew is not None:
            messages.append(agent_pb2.ControllerMessage(renew=self._renew).SerializeToString())
            self._renew = None
        # Last: a policy does not wait for a question.
        while self._drafts:
            messages.extend(self._drafts.pop(next(iter(self._drafts))))
        if self._beats and not messages:
            messages.append(HEARTBEAT)
        self._beats = False
        return messages

    def look(self, now: float) -> bool:
        """To be called a few times a heartbeat, at `now` of the loop: ends the session whose agent is silent or does
        not read; whether the agent is to be told a heartbeat."""
        silence = self._calm * SILENT_INTERVALS
        if not self._handling and now - self._heard_at > silence:  # else its words wait for us
            self.end(SilentPeerError(f"host {self._host} was silent for {silence:g} seconds"))
        elif self._writing:
            if now - self._wrote_at > silence:
                self.end(SilentPeerError(f"host {self._host} does not read its stream"))
        elif now - self._wrote_at >= (self._heartbeat if self._tried else self._calm):
            return True
        return False

    def beat(self) -> None:
        self._beats = True
        self._wake.set()

    def writes(self, writing: bool) -> None:
        """A message is being written, or was."""
        self._writing = writing
        self._wrote_at = self._now()

    def _ordered(self, order: Order) -> list[bytes]:
        """The messages of one order."""
        desired = order.desired
        self._sent.pop(desired.digest, None)
        self._sent[desired.digest] = desired.generation
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]
        if order.kind is Kind.HOLD:
            return self._hold_messages(desired)
        if order.kind is Kind.TRY and desired.digest == self._tried:
            return []
        messages = policy_messages(desired.wire, stage=True) if desired.digest != self._staged else []
        self._staged = desired.digest
        if order.kind is Kind.TRY:
            # The agent keeps one ready, and that is gone when it is tried out.
            self._staged, self._tried, self._held, self._base = "", desired.digest, "", None
            activate = agent_pb2.Activate(
                generation=desired.generation,
                digest=desired.digest,
                silence_seconds=max(1, round(self._heartbeat * SILENT_INTERVALS)),
                accept_denials=order.accept_denials,
            )
            messages.append(agent_pb2.ControllerMessage(activate=activate).SerializeToString())
        return messages

    def _hold_messages(self, desired: Desired) -> list[bytes]:
        """A change of what it holds where that is possible; also to prove what it says that it holds."""
        if desired.digest == self._held and self._proves:
            return []
        tried, held, base = self._tried, self._held, self._base
        self._tried, self._held, self._base, self._proves = "", desired.digest, desired, True
        if tried == desired.digest:
            confirm = agent_pb2.Confirm(generation=desired.generation, digest=desired.digest)
            return [agent_pb2.ControllerMessage(confirm=confirm).SerializeToString()]
        return (delta_messages(base, held, desired) if held else None) or policy_messages(desired.wire)

    def _withdrawal(self) -> list[bytes]:
        reason, self._withdrawn = self._withdrawn, ""
        tried, self._tried, self._staged = self._tried, "", ""
        if not tried:
            return []
        back = agent_pb2.TakeBack(generation=self._sent.get(tried, 0), digest=tried, reason=reason[:LONGEST_REASON])
        return [agent_pb2.ControllerMessage(take_back=back).SerializeToString()]
