"""When the oldest rows go. To find them is a walk over many rows, so it is done for many of the new ones at once."""

from __future__ import annotations

import random

SHARE = 32
"""One part in so many of what is kept may be there beyond it, on average."""


def trims(keep: int, added: int = 1) -> bool:
    """Whether to look now, after so many rows were added: by chance, which needs no memory, and by each row where few
    are kept."""
    return random.random() * max(1, keep // SHARE) < added  # noqa: S311  no secret
