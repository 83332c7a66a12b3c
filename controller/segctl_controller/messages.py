"""What a session sends, serialized once for all who get it: host policies and drafts, in parts that fit a message."""

from __future__ import annotations

from segctl.bodywire import delta_bytes, delta_header, framed
from segctl.proto.v1 import agent_pb2, hostpolicy_pb2

from segctl_controller.trial import Desired

PART = 1_000_000
"""Bytes of a HostPolicy in one message; a larger one comes in Chunk messages."""
_STAGE = hostpolicy_pb2.HostPolicy(stage=True).SerializeToString()


def policy_messages(wire: bytes, *, stage: bool = False) -> list[bytes]:
    """The serialized ControllerMessages that carry a host policy: one `policy`, or parts of its bytes in `chunk`."""
    # Fields follow each other in a message: this one adds HostPolicy.stage to bytes that are shared by all who hold it.
    wire = wire + _STAGE if stage else wire
    if len(wire) <= PART:
        return [framed(agent_pb2.ControllerMessage.POLICY_FIELD_NUMBER, wire)]
    starts = range(0, len(wire), PART)
    return [
        agent_pb2.ControllerMessage(
            chunk=agent_pb2.Chunk(data=wire[start : start + PART], more=start + PART < len(wire))
        ).SerializeToString()
        for start in starts
    ]


def delta_messages(held: Desired | None, digest: str, desired: Desired) -> list[bytes] | None:
    """The ControllerMessage that says what changed for a host that holds `digest`, which is `held` where that is known;
    None where a whole policy has to be sent."""
    if digest == desired.digest:
        changes: bytes | None = b""
    elif held is None or held.generation != desired.generation or held.policy_digest != desired.policy_digest:
        return None
    else:
        changes = delta_bytes(held.body, desired.body)
    if changes is None or len(changes) > PART:
        return None
    delta = delta_header(desired.generation, digest, desired.digest) + changes
    return [framed(agent_pb2.ControllerMessage.DELTA_FIELD_NUMBER, delta)]


def draft_messages(number: int, draft: bytes, limit: int) -> list[bytes]:
    """The serialized ControllerMessages that ask what a draft would cut; each holds at most PART bytes of it."""
    starts = range(0, max(1, len(draft)), PART)
    requests = (
        agent_pb2.ImpactRequest(
            id=number, draft=draft[start : start + PART], more=start + PART < len(draft), limit=limit
        )
        for start in starts
    )
    return [agent_pb2.ControllerMessage(impact=request).SerializeToString() for request in requests]
