"""The chain of the audit log: each entry holds the hash of the one before, so that none can be changed, left out or put
in between without every later hash being another. Pure; the controller appends with it, and who verifies does so alone.

hash = SHA-256(previous || text), where `previous` are the 32 bytes of the hash before (of the first entry: zeros) and
`text` is the JSON array [sequence, at_us, actor, action, subject, detail, identity, peer] without blanks, in ASCII.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from segctl.errors import SegctlError

GENESIS = "0" * 64
"""What the first entry holds as the hash before it."""
LONGEST_LINE = 1 << 20


class ChainError(SegctlError):
    """An audit log that is not what was written: changed, reordered, or with entries left out."""


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of the audit log as it is hashed. `at_us`: Unix microseconds; hashes are hexadecimal."""

    sequence: int
    at_us: int
    actor: str
    action: str
    subject: str
    detail: str
    identity: str
    peer: str
    previous: str
    hash: str

    def line(self) -> str:
        """One line of an export."""
        return json.dumps(asdict(self), ensure_ascii=True)


def link_hash(previous: str, sequence: int, at_us: int, *texts: str) -> str:
    """`texts`: actor, action, subject, detail, identity, peer."""
    text = json.dumps([sequence, at_us, *texts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(bytes.fromhex(previous) + text.encode("ascii")).hexdigest()


def parse_line(line: str, where: str) -> Link:
    """A line of an export. Raises ChainError that names `where`."""
    try:
        values: dict[str, Any] = json.loads(line)
        link = Link(**values)
        if any(not isinstance(getattr(link, f.name), int if f.name in ("sequence", "at_us") else str) for f in LINK):
            raise TypeError("a field is of another type")
    except (ValueError, TypeError, RecursionError) as error:
        raise ChainError(f"{where}: is no entry of an audit log: {error}") from error
    return link


LINK = fields(Link)


class Verifier:
    """Takes every entry from the first one on. `count` were good, the last of which has the hash `head`."""

    def __init__(self, since: str = "") -> None:
        """`since`: a head that was noted earlier, in full or its beginning; it must come up."""
        self.count = 0
        self.head = GENESIS
        self._since = since.lower()
        self._found = not since

    def take(self, link: Link) -> None:
        """Raises ChainError for an entry that does not follow from those before."""
        if link.sequence != self.count + 1:
            raise ChainError(
                f"entry {self.count + 1} is missing: {link.sequence} comes after {self.count}; entries were left out "
                "or put in another order"
            )
        if link.previous != self.head:
            raise ChainError(f"entry {link.sequence} does not follow from the one before: one of them was changed")
        texts = (link.actor, link.action, link.subject, link.detail, link.identity, link.peer)
        if link_hash(self.head, link.sequence, link.at_us, *texts) != link.hash:
            raise ChainError(f"entry {link.sequence} was changed: its fields do not give its hash")
        self.count, self.head = link.sequence, link.hash
        self._found = self._found or self.head.startswith(self._since)

    def finish(self) -> None:
        """Raises ChainError when the head that was noted earlier did not come up."""
        if not self._found:
            raise ChainError(
                f"the head {self._since} that was noted earlier is not in this log of {self.count} entries: its end "
                "was cut off or written anew (a controller that was restored from an older backup looks like that too)"
            )
