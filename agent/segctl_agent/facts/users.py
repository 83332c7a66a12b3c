"""User and group names to numbers, as this host's name service knows them."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterable

from segctl_agent.byuser import GROUP_PREFIX

MAX_ID = 0xFFFF_FFFE
"""The highest uid and gid there is: 0xffffffff means "no one" to the kernel (linux/uidgid.h)."""


def resolve_users(names: Iterable[str]) -> dict[str, int]:
    """name -> uid; `group:NAME` -> gid. A decimal string is a number, whether or not it has a name; a name this host
    does not know is left out."""
    found: dict[str, int] = {}
    for key in names:
        name = key.removeprefix(GROUP_PREFIX)
        number = _number(name, is_group=key.startswith(GROUP_PREFIX))
        if number is not None:
            found[key] = number
    return found


def _number(name: str, *, is_group: bool) -> int | None:
    if name.isascii() and name.isdigit():
        return int(name) if int(name) <= MAX_ID else None
    try:
        return grp.getgrnam(name).gr_gid if is_group else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        return None


def user_name(uid: int) -> str:
    """The name of a uid, or its decimal digits when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
