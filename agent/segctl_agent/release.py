"""Break-glass: an operator opens this host in an emergency, for a time or until they end it; and who did it is told.

    hold            who released the host, in words, and until when: while it is there, nothing is enforced
    told/open       the release that has begun and whose end was not told yet
    told/ID.json    one entry of the controller's audit log each, until it is stored there

A file for each entry, so that the command (root) and the agent need no lock; the end of a release has a name made of
the release's, so that it is told once, whoever notices it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from segctl.errors import StateError
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.durable import write_durably
from segctl_agent.state import StateFolder

log = logging.getLogger(__name__)

FOLDER = "told"
MOST_WAITING = 1_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOGIN_UID = Path("/proc/self/loginuid")
_NOBODY = 2**32 - 1
"""loginuid of what no login started (proc(5))."""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Release:
    """`until`: when it ends by itself. Within the same boot the seconds since boot decide, so that a clock that is set
    neither shortens nor prolongs it."""

    id: str
    who: str
    at: datetime
    reason: str = ""
    until: datetime | None = None
    boot: str = ""
    until_boottime: float = 0.0

    @classmethod
    def begin(cls, who: str, reason: str, lasts: timedelta | None) -> Release:
        now = datetime.now(UTC).replace(microsecond=0)
        end = boottime() + lasts.total_seconds() if lasts else 0.0
        return cls(secrets.token_hex(8), who, now, _line(reason), now + lasts if lasts else None, boot_id(), end)

    @property
    def words(self) -> str:
        until = f" until {_time(self.until)}" if self.until else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"released by {self.who} at {_time(self.at)}{until}{reason}"

    def is_over(self, now: datetime, boot: str, since_boot: float) -> bool:
        if self.until is None:
            return False
        return since_boot >= self.until_boottime if boot == self.boot else now >= self.until


def begin_release(folder: StateFolder, release: Release) -> str:
    """From now on nothing is to be enforced. Returns what could not be noted for the audit log; empty: all was.
    Raises StateError: the host is not released."""
    until = release.until.isoformat() if release.until else ""
    details = {"id": release.id, "until": until, "boot": release.boot, "until_boottime": release.until_boottime}
    folder.hold(release.words, json.dumps(details))
    told = Told(folder.path)
    until_us = _microseconds(release.until) if release.until else 0
    entry = pb.HostEntry(
        id=release.id,
        action="release",
        at_us=_microseconds(release.at),
        who=release.who,
        reason=release.reason,
        until_us=until_us,
    )
    try:
        told.add(entry)
        told.begin(release.id)
    except OSError as error:  # an emergency does not wait for a full disk
        return f"cannot note the release for the audit log in {told.path}: {error.strerror}"
    return ""


def end_release(folder: StateFolder, who: str) -> None:
    """Raises StateError when the hold cannot be taken back."""
    Told(folder.path).end(who)  # first: an agent that sees the hold gone would not know by whom
    folder.end_hold()


def keep_release(
    folder: StateFolder,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    boot: Callable[[], str] = boot_id,
    since_boot: Callable[[], float] = boottime,
) -> None:
    """To be called by the agent every second: ends a release whose time is over, and tells the end of one whose hold
    was taken away by hand."""
    release = read_release(folder)
    told = Told(folder.path)
    if release is not None and release.is_over(now(), boot(), since_boot()):
        try:
            end_release(folder, "itself: its time was over")
        except StateError as error:
            log.error("the release is over and does not end, it is tried again: %s", error)
    elif release is None and not folder.held and told.open:
        told.end("somebody who removed the file hold, or whose name was lost")


def read_release(folder: StateFolder) -> Release | None:
    """What the second line of the hold says; None without a hold, or when one was made by hand."""
    try:
        found = json.loads(folder.hold_details or "null")
        if not isinstance(found, dict):
            return None
        until = datetime.fromisoformat(str(found["until"])) if found["until"] else None
        at = datetime.fromtimestamp(0, UTC)
        return Release(str(found["id"]), "", at, "", until, str(found["boot"]), float(found["until_boottime"]))
    except (ValueError, KeyError, TypeError):
        return None


class Told:
    """What people did on this host and the controller has not stored yet."""

    def __init__(self, state: Path) -> None:
        self.path = state / FOLDER

    @property
    def open(self) -> str:
        """The id of the release that has begun and whose end was not told yet; empty: there is none."""
        try:
            return (self.path / "open").read_text().strip()
        except OSError:
            return ""

    def add(self, entry: pb.HostEntry) -> None:
        """Raises OSError."""
        self._prepare()
        place = self.path / f"{entry.id}.json"
        if place.exists():
            return
        if len(list(self.path.iterdir())) > MOST_WAITING:
            log.error("%d audit entries wait for the controller: a %s is not kept for it", MOST_WAITING, entry.action)
            return
        about = {
            "action": entry.action,
            "at_us": entry.at_us,
            "who": entry.who,
            "reason": entry.reason,
            "until_us": entry.until_us,
        }
        write_durably(place, json.dumps(about).encode())

    def begin(self, identifier: str) -> None:
        """Raises OSError."""
        write_durably(self.path / "open", identifier.encode())

    def end(self, who: str) -> None:
        """Of the release that is open, if one is: told once. A disk that is full loses the words, not the end."""
        if not (identifier := self.open):
            return
        now = _microseconds(datetime.now(UTC))
        with suppress(OSError):
            self.add(pb.HostEntry(id=f"{identifier}-end", action="release-ended", at_us=now, who=_line(who)))
        with suppress(OSError):
            (self.path / "open").unlink(missing_ok=True)

    def waiting(self, most: int) -> list[pb.HostEntry]:
        """The oldest first. A file that does not read is removed: it would wait for ever."""
        found = []
        for place in self.path.glob("*.json"):
            try:
                about = json.loads(place.read_bytes())
                found.append(pb.HostEntry(id=place.stem, **about))
            except (OSError, ValueError, TypeError):
                self.stored([place.stem])
        return sorted(found, key=lambda e: e.at_us)[:most]

    def stored(self, identifiers: Iterable[str]) -> None:
        for identifier in identifiers:
            with suppress(OSError):
                (self.path / f"{identifier}.json").unlink(missing_ok=True)

    def _prepare(self) -> None:
        if self.path.is_dir():
            return
        self.path.mkdir(mode=0o700)
        owner = self.path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(self.path, owner.st_uid, owner.st_gid)


def operator() -> str:
    """Who runs this command, for people: `alice (uid 0, pts/3, from 192.0.2.7)`."""
    name = os.environ.get("SUDO_USER") or _login_name() or _name_of(os.getuid())
    details = [f"uid {os.getuid()}", _terminal(), _origin()]
    return _line(f"{name} ({', '.join(d for d in details if d)})")[:200]


def _login_name() -> str:
    """Of the login that this came from, also after `su`."""
    try:
        uid = int(_LOGIN_UID.read_text())
    except (OSError, ValueError):
        return ""
    return "" if uid == _NOBODY else _name_of(uid)


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _terminal() -> str:
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            return os.ttyname(descriptor).removeprefix("/dev/")
    return "systemd" if os.environ.get("INVOCATION_ID") and os.getppid() == 1 else "no terminal"


def _origin() -> str:
    words = os.environ.get("SSH_CONNECTION", "").split()
    return f"from {words[0]}" if words else ""


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:500]


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
