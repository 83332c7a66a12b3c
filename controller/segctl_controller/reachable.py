"""Whom one can ask about a host."""

from __future__ import annotations

from typing import Protocol

from segctl.proto.v1 import agent_pb2


class Reachable(Protocol):
    """Who answers questions for a host: its session, or the controller that has it."""

    @property
    def host(self) -> str: ...
    @property
    def previews(self) -> bool: ...
    async def probe(self, request: agent_pb2.ProbeRequest) -> agent_pb2.ProbeReply: ...
    async def impact(self, draft: bytes, limit: int) -> agent_pb2.ImpactReply: ...
