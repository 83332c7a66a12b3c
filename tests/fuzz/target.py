"""What is fuzzed: a decoder, the errors it may raise, and inputs that it takes. Mutations of such inputs.

`Target.check` is the one entry point: hypothesis calls it in every test run (`test_fuzz.py`), atheris by hand
(`python -m tests.fuzz NAME`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

SECONDS = 0.5
"""CPU time for one input of at most a few kilobytes: a decoder that takes longer can be stalled from outside."""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` decodes, and asserts whatever must hold of what comes out. `errors`: what it may raise, as documented.
    `samples`: whole inputs of the real format, to mutate."""

    name: str
    run: Callable[[bytes], object]
    samples: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = ()

    def check(self, data: bytes) -> bool:
        """False when the decoder refused `data` with one of its errors. Whatever else it raises is a finding."""
        started = time.process_time()
        try:
            self.run(data)
        except self.errors as error:
            assert str(error), f"{type(error).__name__} says nothing"
            return False
        finally:
            took = time.process_time() - started
            assert took < SECONDS, f"{self.name} took {took:.1f} s for {len(data)} bytes"
        return True


class Kind(Enum):
    """What a mutation does at its place."""

    OVERWRITE = "overwrite"
    INSERT = "insert"
    DELETE = "delete"
    CUT = "cut"
    REPEAT = "repeat"


@dataclass(frozen=True, slots=True)
class Edit:
    """`place` is taken modulo the length, so that every edit fits every input."""

    kind: Kind
    place: int
    content: bytes


def mutated(sample: bytes, edits: Sequence[Edit]) -> bytes:
    for edit in edits:
        at = edit.place % (len(sample) + 1)
        end = at + len(edit.content)
        match edit.kind:
            case Kind.OVERWRITE:
                sample = sample[:at] + edit.content + sample[end:]
            case Kind.INSERT:
                sample = sample[:at] + edit.content + sample[at:]
            case Kind.DELETE:
                sample = sample[:at] + sample[end:]
            case Kind.CUT:
                sample = sample[:at]
            case Kind.REPEAT:
                sample = sample[:end] + sample[at:]
    return sample
