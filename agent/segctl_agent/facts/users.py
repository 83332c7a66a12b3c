"""User names to uids, as this host's name service knows them."""

from __future__ import annotations

import pwd
from collections.abc import Iterable

MAX_UID = 0xFFFF_FFFE
"""The highest uid there is: 0xffffffff means "no one" to the kernel (linux/uidgid.h)."""


def resolve_users(names: Iterable[str]) -> dict[str, int]:
    """name -> uid. A decimal string is a uid, whether or not it has a name; a name this host does not know is left
    out."""
    found: dict[str, int] = {}
    for name in names:
        if name.isascii() and name.isdigit():
            if int(name) <= MAX_UID:
                found[name] = int(name)
            continue
        try:
            found[name] = pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            continue
    return found


def user_name(uid: int) -> str:
    """The name of a uid, or its decimal digits when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
