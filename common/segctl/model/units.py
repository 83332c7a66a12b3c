"""Names of systemd's units and where their cgroups lie (systemd.unit(5), systemd.slice(5)). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

SLICE = ".slice"
UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
"""Units that have processes or sockets of their own in a cgroup."""
PREPARED = "seg"
"""`segctl host prepare` puts the units of workload NAME into the slice seg-NAME.slice, which lies in seg.slice."""
_PLAIN = re.compile(r"[A-Za-z0-9:_.]")


def unit_of(path: str) -> str | None:
    """The unit of the system manager that a cgroup path lies in: the first component that is not a slice."""
    for component in path.split("/"):
        if not component.endswith(SLICE):
            # systemd escapes a unit name that could be taken for a cgroup file with one underscore.
            name = component[1:] if component.startswith("_") else component
            return name if name.endswith(UNIT_SUFFIXES) else None
    return None


def slices_of(parts: Sequence[str]) -> list[str]:
    """The slices of the system manager at the head of a path, outermost first: a-b.slice lies in a.slice. What is not
    where systemd puts it is none of its slices; slices of a user's own manager lie below a service."""
    found: list[str] = []
    above = ""
    for part in parts:
        stem = part.removesuffix(SLICE)
        if stem in (part, above) or not stem.startswith(above) or "-" in stem[len(above) :]:
            break
        found.append(part)
        above = stem + "-"
    return found


def names_for_socket(unit: str) -> tuple[str, ...]:
    """The names under which a unit is looked for, in this order. A listener that systemd made for foo.socket is, when
    nothing names the socket, that of foo.service, or with Accept=yes (systemd.socket(5)) of the instances of
    foo@.service."""
    if not unit.endswith(".socket"):
        return (unit,)
    stem = unit.removesuffix(".socket")
    return (unit, f"{stem}.service") if "@" in stem else (unit, f"{stem}.service", f"{stem}@.service")


def escape(text: str) -> str:
    """As systemd-escape(1) does for one component: a dash would begin another slice."""
    return "".join(
        c if _PLAIN.fullmatch(c) and (i or c != ".") else "".join(f"\\x{b:02x}" for b in c.encode())
        for i, c in enumerate(text)
    )


def prepared_slice(workload: str) -> str:
    return f"{PREPARED}-{escape(workload)}{SLICE}"
