"""Which kernel this is. What the product documents for some kernels only is tested on those, and pytest says how many
tests were of others (tests/netns/conftest.py)."""

from __future__ import annotations

import platform

import pytest

OWNERSHIP = (6, 9)
"""The first Linux with persistent table ownership (ADR 15)."""


def release(text: str = "") -> tuple[int, int]:
    """(6, 1) of "6.1.0-56-amd64"."""
    major, minor, *_ = (text or platform.release()).split("-")[0].split(".")
    return int(major), int(minor)


from_ownership = pytest.mark.linux(at_least=OWNERSHIP)
before_ownership = pytest.mark.linux(before=OWNERSHIP)


def belongs(mark: pytest.Mark, now: tuple[int, int]) -> bool:
    """Whether a test with this mark is of the kernel `now`."""
    return mark.kwargs.get("at_least", now) <= now and ("before" not in mark.kwargs or now < mark.kwargs["before"])
