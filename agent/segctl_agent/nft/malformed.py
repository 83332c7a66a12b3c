"""What the kernel says in a form that this version does not know: one error, whatever the decoder tripped over."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from segctl.errors import KernelError

P = ParamSpec("P")
T = TypeVar("T")


def decoder(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For a decoder of `what`: an attribute that is missing, too short or out of bounds becomes a KernelError."""

    def decorate(parse: Callable[P, T]) -> Callable[P, T]:
        @wraps(parse)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return parse(*args, **kwargs)
            except (LookupError, ValueError, OverflowError, struct.error) as error:
                raise KernelError(
                    f"the kernel describes {what} in a form that this version does not know "
                    f"({type(error).__name__}: {error}): report this with the kernel's version"
                ) from error

        return checked

    return decorate
