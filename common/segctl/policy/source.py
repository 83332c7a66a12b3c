"""A policy file as it was handed in: a name for messages, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceFile:
    """`name` is what positions show (a path relative to the policy's directory); `content` is unchecked."""

    name: str
    content: bytes
