"""The identity of a process as flows bear it: one text, the same on every host and after every restart. Pure.

    unit:nginx.service    exe:/usr/bin/psql    container:shop-db    user:backup    "" where it is not known

Of several that would fit, the first in this order stands: the container, the unit, the executable where no unit names
it (what runs in a session of a user), and the user where the executable could not be read, either.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Final

from segctl.model.units import SLICE, UNIT_SUFFIXES

UNKNOWN: Final = ""
UNIT, EXECUTABLE, CONTAINER, USER = "unit", "exe", "container", "user"
KINDS: Final = (UNIT, EXECUTABLE, CONTAINER, USER)
MAX_IDENTITY: Final = 256
"""Characters."""
_DELETED = " (deleted)"
"""What /proc/PID/exe says behind the path of a program that was replaced while it runs (proc(5))."""

_OF_NO_PROCESS = re.compile(r"session-[^@]*\.scope|user@[^@]*\.service|run-(r[0-9a-f]+|u\d+|p\d+-i\d+|\d+)\.[a-z]+")
"""Login sessions (pam_systemd(8)), user managers (user@.service(5)), and what systemd-run(1) names by itself: whatever
somebody started lies in them."""
_CONNECTION = re.compile(r"@\d+-([0-9A-Fa-f.:]+:\d+-[0-9A-Fa-f.:]+:\d+|\d+-\d+)(-\d+)?(?=\.)")
"""The instance that systemd makes for each connection to a socket with Accept=yes (systemd.socket(5)), by its ends."""
_RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}")


def identity(kind: str, name: str) -> str:
    """UNKNOWN for a name that no identity can bear: empty, too long, or with characters that cannot be printed."""
    text = f"{kind}:{name}"
    return text if is_identity(text) else UNKNOWN


def is_identity(text: str) -> bool:
    """Whether a text, from whomever, is the identity of a known process."""
    kind, colon, name = text.partition(":")
    return bool(colon and name) and kind in KINDS and len(text) <= MAX_IDENTITY and text.isprintable()


def unit_identity(unit: str) -> str:
    """Of a unit of the system manager (`segctl.model.units.unit_of`). Instances and scopes that are made for one
    connection, or bear a random number, are one: `sshd@*.service`. A socket is the service that it starts. UNKNOWN
    for units that do not say what runs in them."""
    if _OF_NO_PROCESS.fullmatch(unit) or unit.endswith(SLICE) or not unit.endswith(UNIT_SUFFIXES):
        return UNKNOWN
    name = _RANDOM.sub("*", _CONNECTION.sub("@*", unit))
    stem, _, suffix = name.rpartition(".")
    return identity(UNIT, f"{stem}.service" if suffix == "socket" else name)


def executable_identity(path: str) -> str:
    """Of an absolute path, or what /proc/PID/exe says. UNKNOWN for anything else."""
    return identity(EXECUTABLE, path.removesuffix(_DELETED)) if path.startswith("/") else UNKNOWN


def name_of(process: str) -> str:
    """Without its kind, and of a path the last component: as people call it. Empty for UNKNOWN."""
    kind, _, name = process.partition(":")
    return name.rpartition("/")[2] if kind == EXECUTABLE else name


def is_called(process: str, wanted: str) -> bool:
    """Whether somebody who looks for `wanted` means this process: by the whole identity, by its name, a path or the
    last component of it, a unit with or without its suffix, or by a glob on one of those."""
    kind, _, name = process.partition(":")
    called = {process, name, name_of(process)} | ({name.rpartition(".")[0]} if kind == UNIT else set())
    return wanted in called or any(fnmatchcase(one, wanted) for one in called)
