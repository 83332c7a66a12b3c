"""The form of an API token: `segctl_`, 43 letters of secret (256 bits), and 6 of a checksum over both.

The prefix and the checksum let scanners of repositories and logs find a token that leaked, without asking anybody
(expression: segctl_[0-9A-Za-z]{49}); the checksum also tells a token that was cut off when it was copied.
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Callable, Sequence

PREFIX = "segctl_"
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET, CHECKSUM = 43, 6
FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{SECRET + CHECKSUM}}}")


def new_token(choice: Callable[[Sequence[str]], str] = secrets.choice) -> str:
    body = PREFIX + "".join(choice(LETTERS) for _ in range(SECRET))
    return body + _checksum(body)


def is_whole(token: str) -> bool:
    """Whether it has the form, and the checksum fits."""
    return FORM.fullmatch(token) is not None and token[-CHECKSUM:] == _checksum(token[:-CHECKSUM])


def _checksum(body: str) -> str:
    """CRC-32 in base 62."""
    rest, letters = zlib.crc32(body.encode("ascii")), ""
    for _ in range(CHECKSUM):
        rest, digit = divmod(rest, len(LETTERS))
        letters = LETTERS[digit] + letters
    return letters
