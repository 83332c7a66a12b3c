"""How a generation is to come into force, as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from segctl.proto.v1 import admin_pb2 as pb

from segctl_controller.errors import InvalidRequestError

DEFAULT_WAIT, LONGEST_WAIT = 30, 3600
DEFAULT_WATCH, LONGEST_WATCH = 3, 24 * 3600
MOST_WAVES = 100


@dataclass(frozen=True, slots=True)
class Way:
    """How it is to be done; times in seconds. `wait` bounds each step, `watch` follows the proofs of each wave."""

    wait: float = DEFAULT_WAIT
    watch: float = DEFAULT_WATCH
    canary: dict[str, str] = field(default_factory=dict)
    waves: int = 1
    pause: float = 0
    accept_denials: bool = False
    without: frozenset[str] = frozenset()


def way_from(wait_seconds: int, asked: pb.Rollout) -> Way:
    """Raises InvalidRequestError."""
    watch = asked.watch_seconds if asked.HasField("watch_seconds") else DEFAULT_WATCH
    if wait_seconds > LONGEST_WAIT:
        raise InvalidRequestError(f"wait_seconds is over {LONGEST_WAIT}")
    if max(watch, asked.pause_seconds) > LONGEST_WATCH:
        raise InvalidRequestError(f"watch_seconds or pause_seconds is over {LONGEST_WATCH}")
    if asked.waves > MOST_WAVES:
        raise InvalidRequestError(f"at most {MOST_WAVES} waves")
    return Way(
        wait_seconds or DEFAULT_WAIT,
        watch,
        dict(asked.canary),
        asked.waves or 1,
        asked.pause_seconds,
        asked.accept_denials,
        frozenset(asked.without),
    )
