"""What is true after a change: the kernel holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from segctl_agent.decisions import Turn


@dataclass(frozen=True, slots=True)
class Applied:
    """`apply_us` is the time from call to proof, `turn` as in Decisions."""

    digest: Callable[[], str] = field(repr=False, compare=False)
    apply_us: int
    notes: tuple[str, ...]
    turn: Turn
    narrowed: bool = False
    """Whether live flows may have lost their permission."""

    @property
    def kernel_digest(self) -> str:
        """Of what was read back. Made when it is asked for: a large table takes longer to hash than to change."""
        return self.digest()
