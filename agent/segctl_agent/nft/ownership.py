"""Who may change our table: the kernel's table ownership. Pure.

An owned table belongs to a netlink socket: nobody else's transaction may touch it (EPERM), and their `flush ruleset`
passes it by. A persistent one outlives its owner as an orphan, with its rules in force, and the next process may adopt
it. NFT_TABLE_F_OWNER is there since Linux 5.12, NFT_TABLE_F_PERSIST since 6.9 (include/uapi/linux/netfilter/
nf_tables.h). The kernel refuses (nf_tables_updtable): to give an owner to a table that is no orphan, to give or take
persistence, to put an owned table to sleep. A table that was made without an owner must be replaced: see `handover`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum

from segctl_agent.nft.attributes import attributes, number, string, text, u32
from segctl_agent.nft.messages import CREATE, DELCHAIN, NEWTABLE, Message
from segctl_agent.nft.operations import AddTable, DeleteChain

DORMANT, OWNER, PERSIST = 0x1, 0x2, 0x4
GUARDED = OWNER | PERSIST
_PROBE = "segctl-probe"


class TableGuard(Enum):
    """What a writer wants: ownership where the kernel has it, or a table that others may change, watched and healed."""

    AUTO = "auto"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class TableState:
    """Flags and, as a netlink port, the owner of a table that exists; 0: nobody."""

    flags: int
    owner: int = 0

    @property
    def orphan(self) -> bool:
        return self.flags & GUARDED == PERSIST


def parse_table(message: bytes) -> tuple[str, TableState]:
    """(name, state) of a NEWTABLE message."""
    found = dict(attributes(message))
    return text(found.get(1, b"")), TableState(number(found.get(2, b"")), number(found.get(7, b"")))


def flags_to_write(now: TableState | None, guarded: bool) -> int:
    """What a NEWTABLE message must carry to create, wake or adopt: anything else is refused for that table."""
    if now is None or now.flags & PERSIST:
        return GUARDED if guarded else PERSIST * (now is not None)
    return 0


def deviation(now: TableState, guarded: bool) -> int:
    """The flags that are not as they should be, 0 for none: asleep, or an orphan that we would own. Who only reads or
    watches does not mind an owner."""
    return now.flags ^ flags_to_write(now, guarded) if guarded else now.flags & ~GUARDED


def probe() -> list[Message]:
    """Asks whether the kernel has persistent ownership, with a transaction that cannot succeed: nothing changes, and
    nobody is told."""
    name = string(1, _PROBE)
    impossible = Message(DELCHAIN, 0, name + string(3, _PROBE), DeleteChain(_PROBE))
    return [Message(NEWTABLE, CREATE, name + u32(2, GUARDED), AddTable()), impossible]


def answer_is_yes(position: int, code: int) -> bool:
    """`position` of the first message of the probe that was refused, and the errno it was refused with."""
    return not (position == 0 and code in (errno.EOPNOTSUPP, errno.EINVAL))


def guard_in_force(mode: TableGuard, supported: bool, now: TableState | None, port: int) -> tuple[str, str]:
    """("owned" or "watched", why it is no more than watched). `port` is our own."""
    if mode is TableGuard.WATCH:
        return "watched", "--table-guard watch asks for it"
    if not supported:
        return "watched", "this kernel has no persistent table ownership (Linux 6.9 or later has)"
    if now is not None and now.owner != port:
        return "watched", "the table was made without an owner; the next start of an agent gives it one"
    return "owned", ""
