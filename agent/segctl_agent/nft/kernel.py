"""The kernel as the agent sees it: read our table, change it in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from segctl.errors import KernelError

from segctl_agent.nft.attributes import attributes, number, string, text
from segctl_agent.nft.dump import parse_chain, parse_counter, parse_elements, parse_rule, parse_set, rule_packets
from segctl_agent.nft.fake import FakeKernel
from segctl_agent.nft.handover import STANDBY, handover, remove_standby
from segctl_agent.nft.messages import (
    COUNTER,
    DELCHAIN,
    GETCHAIN,
    GETFLOWTABLE,
    GETOBJ,
    GETRULE,
    GETSET,
    GETSETELEM,
    GETTABLE,
    Message,
    element_lists,
    encode,
)
from segctl_agent.nft.netlink import DumpInterruptedError, Netlink, kernel_error
from segctl_agent.nft.operations import AddTable, Batch, DeleteChain, DeleteTable
from segctl_agent.nft.ownership import (
    GUARDED,
    TableGuard,
    TableState,
    answer_is_yes,
    deviation,
    flags_to_write,
    guard_in_force,
    parse_table,
    probe,
)
from segctl_agent.nft.ruleset import TABLE, Chain, Data, Elements, Foreign, ForeignKind, NftSet, Rule, Ruleset, SetSpec

__all__ = ["FakeKernel", "Kernel", "NetlinkKernel"]

_ATTEMPTS = 20
_GROWS_FROM = 1000
_HANDOVER_SECONDS = 1.0
_IMPOSSIBLE = Message(DELCHAIN, 0, b"", DeleteChain(""))
"""A chain of no table: EINVAL, whatever there is (nft_table_lookup)."""
GRACE_SECONDS = 0.01
"""Longer than a packet needs for its walk through the rules."""
T = TypeVar("T")
Encoder = Callable[[Batch, str, int], list[Message]]
"""(batch, table, flags for AddTable) -> messages: see `messages.encode`."""


class Kernel(Protocol):
    """One writer of one table. Every method raises KernelError when the kernel refuses."""

    def read(self) -> Ruleset | None:
        """What the kernel holds, or None when there is no table."""

    def apply(self, batch: Batch) -> None:
        """All of it or nothing. Raises KernelFullError when a set is full."""

    def rehearse(self, batch: Batch) -> None:
        """Changes nothing. Raises KernelError as `apply` would."""

    def generation(self) -> int:
        """Changes with every transaction of anyone in this network namespace."""

    def counters(self) -> dict[str, int]:
        """Packets counted in each chain that has a counter."""

    def chains(self) -> Mapping[str, Chain]:
        """The chains of our table with their rules, without a look at any set. Empty when there is no table."""

    def hits(self) -> dict[str, int]:
        """Packets counted in each named counter."""

    def held(self, name: str, spec: SetSpec, keys: Iterable[bytes]) -> Elements:
        """Which of these elements the set holds: each is asked for by its key, the rest of the set is not touched."""

    def destroy(self) -> None:
        """Remove the table: every packet passes."""

    def close(self) -> None: ...


class NetlinkKernel:
    """The kernel's nf_tables in the network namespace in which this object was made. Costs no process.

    With the guard AUTO it owns the table that it makes, and adopts one that lost its owner: at once, without a change
    for any packet. Others may then read it and not write it. KernelError when another process owns it. `encode` makes
    the messages of a batch.
    """

    def __init__(self, table: str = TABLE, guard: TableGuard = TableGuard.WATCH, encode: Encoder = encode) -> None:
        self._table, self._guard, self._encode = table, guard, encode
        self._netlink = Netlink()
        self._guarded = guard is TableGuard.AUTO and self._supports_ownership()
        if self._guarded:
            self._claim()

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> Ruleset | None:
        return self._consistent(self._read)

    def apply(self, batch: Batch) -> None:
        self._netlink.batch(self._messages(batch))

    def rehearse(self, batch: Batch) -> None:
        """In a transaction that cannot succeed: the kernel looks at all of it, and takes back what it did."""
        messages = [*self._messages(batch), _IMPOSSIBLE]
        refusal = self._netlink.refusal(messages)
        if refusal.position != len(messages) - 1:
            about = str(messages[refusal.position]) if refusal.position >= 0 else f"rehearse {len(messages)} messages"
            raise kernel_error(refusal.code, about, refusal.why)

    def generation(self) -> int:
        return self._netlink.generation()

    def counters(self) -> dict[str, int]:
        return self._consistent(self._counters)

    def chains(self) -> Mapping[str, Chain]:
        return self._consistent(self._chains)

    def hits(self) -> dict[str, int]:
        return self._consistent(self._hits)

    def held(self, name: str, spec: SetSpec, keys: Iterable[bytes]) -> Elements:
        which = string(1, self._table) + string(2, name)
        found: dict[bytes, Data] = {}
        for chunk in element_lists(spec, keys):
            try:
                answers = self._netlink.get(GETSETELEM, which + chunk)
            except FileNotFoundError:
                continue
            found.update(parse_elements(answers, spec))
        return found

    def destroy(self) -> None:
        for table in self._tables():
            self._netlink.batch(encode(Batch((DeleteTable(),)), table))

    def present(self) -> bool:
        """Our table is there, or what a takeover that was cut short left."""
        return bool(self._tables())

    def take_over(self, held: Ruleset, keep_hits: Callable[[Mapping[str, int]], object] = lambda _: None) -> bool:
        """Own a table that was made without an owner and holds `held`, without a gap; True when that was due. Its
        counters begin anew: `keep_hits` is given what they held, and where the new ones stand. Also removes what a
        takeover that was cut short left, whoever owns the table. KernelError: the table is in force as it was."""
        tables = self._tables()
        if self._table not in tables:
            return False
        leftover = STANDBY in tables
        due = self._guarded and tables[self._table].flags & GUARDED == 0
        steps = handover(held, leftover, self._table) if due else remove_standby(held) if leftover else ()
        if due:
            keep_hits(self.hits())
        for messages in steps:
            self._netlink.batch(messages)
            time.sleep(GRACE_SECONDS)
        if due:
            keep_hits(self.hits())
        return due

    def guard(self) -> tuple[str, str]:
        """("owned" or "watched", why it is no more than watched)."""
        return guard_in_force(self._guard, self._guarded, self._state(), self._netlink.port)

    @property
    def port(self) -> int:
        """The netlink port that writes."""
        return self._netlink.port

    def other_owner(self) -> str:
        """The process that owns our table, for people; empty: nobody does, or we do."""
        owners = {state.owner for state in self._tables().values()} - {0, self._netlink.port}
        return _owner_name(min(owners)) if owners else ""

    def _supports_ownership(self) -> bool:
        refusal = self._netlink.refusal(probe())
        return answer_is_yes(refusal.position, refusal.code)

    def _claim(self) -> None:
        """An agent that was killed a moment ago may not be gone yet."""
        deadline = time.monotonic() + _HANDOVER_SECONDS
        while (owner := self.other_owner()) and time.monotonic() < deadline:
            time.sleep(0.01)
        if owner:
            raise KernelError(
                f"the table inet {self._table} is owned by {owner}: end that process. The rules stay in force, and the "
                "next agent takes them over"
            )
        state = self._state()
        if state is not None and state.orphan:
            self._netlink.batch(self._messages(Batch((AddTable(),))))

    def _messages(self, batch: Batch) -> list[Message]:
        flags = 0
        if any(isinstance(o, AddTable) for o in batch.operations):
            flags = flags_to_write(self._state(), self._guarded)
        return self._encode(batch, self._table, flags)

    def _consistent(self, read: Callable[[], T]) -> T:
        """A dump takes several messages: it counts only if nobody changed the ruleset meanwhile."""
        for _ in range(_ATTEMPTS):
            try:
                before = self._netlink.generation()
                found = read()
                if self._netlink.generation() == before:
                    return found
            except (DumpInterruptedError, FileNotFoundError):
                continue
        raise KernelError(f"table {self._table} changes faster than it can be read: find out who changes it")

    def _state(self) -> TableState | None:
        return self._tables().get(self._table)

    def _tables(self) -> dict[str, TableState]:
        """Those of ours that exist, by name. Asked for by name: a dump of all tables is void whenever anyone writes
        meanwhile, and some write all the time."""
        found: dict[str, TableState] = {}
        for name in (self._table, STANDBY):
            with suppress(FileNotFoundError):
                found.update(parse_table(m) for m in self._netlink.get(GETTABLE, string(1, name)))
        return found

    def _read(self) -> Ruleset | None:
        state = self._state()
        if state is None:
            return None
        flags = deviation(state, self._guarded)
        ours = string(1, self._table)
        chains = self._chains()
        sets, foreign = self._sets(ours)
        counters, others = self._objects(ours)
        return Ruleset(chains, sets, flags, frozenset(foreign | others), frozenset(counters))

    def _chains(self) -> Mapping[str, Chain]:
        hooks = dict(c for m in self._netlink.dump(GETCHAIN, b"") if (c := parse_chain(m, self._table)))
        rules: dict[str, list[Rule]] = {name: [] for name in hooks}
        for message in self._netlink.dump(GETRULE, string(1, self._table)):
            chain, rule = parse_rule(message)
            rules.setdefault(chain, []).append(rule)
        return {name: Chain(tuple(rules[name]), base) for name, base in hooks.items()}

    def _sets(self, ours: bytes) -> tuple[dict[str, NftSet], set[Foreign]]:
        sets: dict[str, NftSet] = {}
        foreign: set[Foreign] = set()
        for name, spec in [s for m in self._netlink.dump(GETSET, ours) if (s := parse_set(m))]:
            if spec is None:
                foreign.add(Foreign(name, ForeignKind.SET))
                continue
            sets[name] = NftSet(spec, {} if spec.dynamic else self._elements(ours + string(2, name), spec))
        return sets, foreign

    def _elements(self, which: bytes, spec: SetSpec) -> Elements:
        """A set without a size is resized in the background, and a dump meanwhile can miss elements: seen on 6.18 with
        100,000, never with a few thousand. So a large one counts when two dumps agree."""
        found = parse_elements(self._netlink.dump(GETSETELEM, which), spec)
        if spec.size or spec.interval or len(found) < _GROWS_FROM:
            return found
        for _ in range(_ATTEMPTS):
            again = parse_elements(self._netlink.dump(GETSETELEM, which), spec)
            if again == found:
                return found
            found = again
        raise DumpInterruptedError

    def _objects(self, ours: bytes) -> tuple[set[str], set[Foreign]]:
        """The names of the counters, and what else there is in the table."""
        counters: set[str] = set()
        others: set[Foreign] = set()
        for message in self._netlink.dump(GETOBJ, ours, optional=True):
            found = dict(attributes(message))
            name, kind = text(found[2]), number(found[3])
            if kind == COUNTER:
                counters.add(name)
            else:
                others.add(Foreign(name, ForeignKind.OBJECT, kind))
        for message in self._netlink.dump(GETFLOWTABLE, ours, optional=True):
            others.add(Foreign(text(dict(attributes(message))[2]), ForeignKind.FLOWTABLE))
        return counters, others

    def _hits(self) -> dict[str, int]:
        if self._state() is None:
            return {}
        found = (parse_counter(m) for m in self._netlink.dump(GETOBJ, string(1, self._table), optional=True))
        return dict(c for c in found if c)

    def _counters(self) -> dict[str, int]:
        out: dict[str, int] = {}
        if self._state() is None:
            return out
        for message in self._netlink.dump(GETRULE, string(1, self._table)):
            chain, packets = rule_packets(message)
            if packets is not None:
                out[chain] = out.get(chain, 0) + packets
        return out


def _owner_name(port: int) -> str:
    """The first netlink socket of a process has its pid as its port; what others have tells nothing."""
    try:
        return f"{Path('/proc', str(port), 'comm').read_text().strip()} (pid {port})"
    except OSError:
        return f"the netlink socket {port}"
