"""Dumps of the conntrack table in, flows by what the policy calls them out. Pure: rows and times come in.

    dump ── mark ──▶ decision id ──▶ workload, direction ── side, rule ──▶ process ──▶ FlowKey ──▶ one row of the window

A flow is new when the dump before did not have it; then its process is asked for, with those of all others that are
new, and stays with it. Left out: flows without an id (loopback, forwarded, other tables'),
flows of essentials, whose workload nobody asked for, and ids that this process never knew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from segctl_agent.conntrack.values import IPS_ASSURED, TCP, TCP_OVER, ConntrackRow
from segctl_agent.flows.attribution import Asked, Memory, ProcessesOf, Service, asked_of, declared, nobody
from segctl_agent.flows.permits import Judgement, PolicyIndex
from segctl_agent.flows.values import ESSENTIALS, FlowKey, FlowRow, FlowWindow, Marks, side, ways
from segctl_agent.identity import Direction

MAX_FLOWS: Final = 1 << 18
"""Flows remembered from one dump to the next: nf_conntrack_max of a common server, about 100 bytes each."""
MAX_KEYS: Final = 1 << 14
MAX_ASKED: Final = 1 << 13
"""Flows of one dump whose processes are asked for; the others' are remembered, or not known."""
REFRESH_US: Final = 300_000_000
"""How long a row may be silent while its flows live on: then it is told again, with no new flow."""

WorkloadOf = Callable[[Direction, int], str | None]


class Half(NamedTuple):
    """A mark's half: under which direction, for which workload a flow was let pass."""

    direction: Direction
    workload: str
    loose: bool


class _Way(NamedTuple):
    """As what a flow was judged, and how its socket is found."""

    service: Service
    judged: Judgement
    asked: Asked


class _Record:
    """What is known of a key in this window."""

    __slots__ = ("answered", "first_us", "flows", "key", "live", "received", "sent", "told_us", "version")

    def __init__(self, key: FlowKey | None, version: int) -> None:
        self.key, self.version = key, version
        self.live = self.flows = self.sent = self.received = self.first_us = 0
        self.answered = False
        self.told_us = -REFRESH_US  # due from the first window on

    def met(self, row: ConntrackRow) -> None:
        """A flow of its own. What was told as unanswered and is answered now is due again."""
        if not self.answered and (row.status & IPS_ASSURED or row.protocol != TCP):
            self.answered, self.told_us = True, -REFRESH_US


# A flow's record; with the bytes that were counted so far, where the kernel counts and the flow may count more.
_Seen = _Record | tuple[_Record, int, int]


class FlowObserver:
    """`workload_of` gives the workload of a live or a dead id, None for one that it never knew. `processes_of` is asked
    once a dump, about at most `max_asked` flows."""

    def __init__(
        self,
        marks: Marks,
        workload_of: WorkloadOf,
        processes_of: ProcessesOf = nobody,
        memory: Memory | None = None,
        max_flows: int = MAX_FLOWS,
        max_keys: int = MAX_KEYS,
        max_asked: int = MAX_ASKED,
    ) -> None:
        self._marks, self._workload_of, self._processes_of = marks, workload_of, processes_of
        self._max_flows, self._max_keys, self._max_asked = max_flows, max_keys, max_asked
        self._memory = memory if memory is not None else Memory()
        self._seen: dict[int, _Seen] = {}
        self._records: dict[FlowKey, _Record] = {}
        self._nameless = _Record(None, -1)  # the record of flows whose key found no room
        self._index: PolicyIndex | None = None
        self._version = 0
        self._until_us: int | None = None

    def begin(self, at_us: int) -> None:
        """Nothing of ours is on a flow yet at `at_us`: whatever comes is new."""
        self._until_us = self._until_us or at_us

    def observe(self, dump: Iterable[Sequence[ConntrackRow]], index: PolicyIndex, at_us: int) -> FlowWindow:
        """One dump, taken at `at_us` (Unix time) while the policy of `index` was in force. In the first one nothing
        can be told to be new. Whatever the dump raises goes through; what was known then stays known."""
        before = self._index or index
        if index is not self._index:
            self._index, self._version = index, self._version + 1
        from_us = at_us if self._until_us is None else min(self._until_us, at_us)
        turn = _Turn(self, index, before, from_us, at_us, first=self._until_us is None)
        try:
            for rows in dump:
                turn.take(rows)
            turn.ask()
        except BaseException:  # what was counted goes out with the next window
            self._seen.update(turn.seen)
            for record in self._records.values():
                record.live = 0
            raise
        self._seen, self._until_us = turn.seen, at_us
        told = tuple(_row(r, from_us, at_us) for r in self._records.values() if _worth_telling(r, at_us))
        self._records = {key: record for key, record in self._records.items() if record.live}
        for record in self._records.values():
            record.live = record.flows = record.sent = record.received = record.first_us = 0
        return FlowWindow(from_us, at_us, told, turn.lost)

    def _record(self, key: FlowKey) -> _Record | None:
        record = self._records.get(key)
        if record is None and len(self._records) < self._max_keys:
            record = self._records[key] = _Record(key, self._version)
        if record is not None:
            record.version = self._version
        return record


class _Turn:
    """One dump on its way through the observer."""

    def __init__(
        self, observer: FlowObserver, index: PolicyIndex, before: PolicyIndex, from_us: int, at_us: int, *, first: bool
    ) -> None:
        self._of, self._index, self._before = observer, index, before
        self._from_us, self._at_us, self._first = from_us, at_us, first
        self._halves: dict[int, tuple[Half, ...]] = {}
        self._judged: dict[tuple[Direction, str, bytes, int, int], Judgement] = {}
        self._waiting: dict[int, tuple[ConntrackRow, _Way]] | None = {}  # None: nobody is asked any more
        self.seen: dict[int, _Seen] = {}
        self.lost = 0

    def take(self, rows: Sequence[ConntrackRow]) -> None:
        halves_of, before, seen = self._halves, self._of._seen, self.seen
        version, nameless = self._of._version, self._of._nameless
        for row in rows:
            halves = halves_of.get(row.mark)
            if halves is None:
                halves = halves_of[row.mark] = attributed(row.mark, self._of._marks, self._of._workload_of)
            for half in halves:
                name = hash((row[1:5], row.protocol, row.id, half.direction))  # name_of, without a call for each
                known = before.pop(name, None)
                if known is None:
                    if name not in seen:
                        self._meet(name, row, half)
                    continue
                record = known if isinstance(known, _Record) else known[0]
                if record.version != version and record.key is not None:
                    record = self._find(self._way(row, half), record.key.process) or nameless
                record.live += 1
                record.first_us = self._from_us
                if not record.answered:
                    record.met(row)
                seen[name] = self._count(record, known, row)

    def _meet(self, name: int, row: ConntrackRow, half: Half) -> None:
        """A flow that is new waits until its process is asked for, unless it was witnessed, or is over: then its socket
        is gone."""
        way = self._way(row, half)
        process = self._of._memory.witnessed(name)
        over = row.protocol == TCP and row.tcp_state in TCP_OVER and way.service.direction == "out"
        if process or over or self._waiting is None:
            self._new(name, row, way, process or self._remembered(way))
            return
        self._waiting.setdefault(name, (row, way))
        if len(self._waiting) >= self._of._max_asked:
            self.ask()

    def ask(self) -> None:
        """About all that wait. What comes later in this dump is remembered or not known."""
        waiting, self._waiting = self._waiting or {}, None
        asked = [way.asked for _, way in waiting.values()]
        told = self._of._processes_of(asked) if asked else ()
        for (name, (row, way)), process in zip(waiting.items(), told, strict=True):
            if process:
                self._of._memory.learn(way.service, process)
            self._new(name, row, way, process or self._remembered(way))

    def _remembered(self, way: _Way) -> str:
        return self._of._memory.recall(way.service) or declared(self._index.workload(way.service.workload).process)

    def _new(self, name: int, row: ConntrackRow, way: _Way, process: str) -> None:
        if len(self.seen) + len(self._of._seen) >= self._of._max_flows:
            self.lost += 1
            return
        record = self._find(way, process)
        if record is None:
            self.lost += 1
            record = self._of._nameless
        began = row.started_ns // 1000 or self._at_us
        record.first_us = min(record.first_us or self._at_us, max(began, self._from_us))
        record.live += 1
        record.flows += not self._first
        record.met(row)
        if self._first:
            self.seen[name] = (record, row.original_bytes, row.reply_bytes) if row.original_bytes else record
        else:
            self.seen[name] = self._count(record, (record, 0, 0), row)

    def _count(self, record: _Record, known: _Seen, row: ConntrackRow) -> _Seen:
        """Adds what was counted since, and gives what to remember. An entry that is over counts no more."""
        if not row.original_bytes or isinstance(known, _Record) or record.key is None:
            return record
        original, reply = max(0, row.original_bytes - known[1]), max(0, row.reply_bytes - known[2])
        from_remote = row.source == record.key.remote
        record.sent += reply if from_remote else original
        record.received += original if from_remote else reply
        over = row.protocol == TCP and row.tcp_state > 6  # TIME_WAIT, CLOSE
        return record if over else (record, row.original_bytes, row.reply_bytes)

    def _way(self, row: ConntrackRow, half: Half) -> _Way:
        """The first that a rule permits, else the plain one."""
        found: _Way | None = None
        for direction, entry in ways(row, half.direction, loose=half.loose):
            seen = side(entry, direction)
            judged = self._judge(direction, half.workload, seen.remote, row.protocol, seen.service)
            if found is None or judged.rule:
                service = Service(direction, half.workload, seen.remote, row.protocol, seen.port)
                found = _Way(service, judged, asked_of(entry, direction))
            if judged.rule:
                break
        assert found is not None
        return found

    def _find(self, way: _Way, process: str) -> _Record | None:
        return self._of._record(FlowKey(*way.service, way.judged.rule, way.judged.verdict, process))

    def _judge(self, direction: Direction, workload: str, remote: bytes, protocol: int, port: int) -> Judgement:
        """By the policy in force; what that one refuses, by the one at the beginning of the window: it began then."""
        key = (direction, workload, remote, protocol, port)
        found = self._judged.get(key)
        if found is None:
            if len(self._judged) >= MAX_KEYS:
                self._judged.clear()
            found = self._index.judge(*key, self._at_us / 1e6)
            if not found.passes:
                earlier = self._before.judge(*key, self._from_us / 1e6)
                found = earlier if earlier.passes else found
            self._judged[key] = found
        return found


def name_of(row: ConntrackRow, direction: Direction) -> int:
    """64 bits of a keyed hash (PEP 456) stand for the flow: a tenth of the memory of its tuple."""
    return hash((row[1:5], row.protocol, row.id, direction))


def attributed(mark: int, marks: Marks, workload_of: WorkloadOf) -> tuple[Half, ...]:
    """The halves of a mark that name a workload; a flow from one container to another has both."""
    out: list[Half] = []
    loose = marks.loose(mark)
    ids: tuple[tuple[Direction, int], ...] = (("out", marks.out_id(mark)), ("in", marks.in_id(mark)))
    for direction, number in ids:
        workload = workload_of(direction, number) if number else None
        if workload is not None and workload != ESSENTIALS:
            out.append(Half(direction, workload, loose))
    return tuple(out)


def _worth_telling(record: _Record, at_us: int) -> bool:
    return bool(record.flows or record.sent or record.received) or (
        record.live > 0 and at_us - record.told_us >= REFRESH_US
    )


def _row(record: _Record, from_us: int, at_us: int) -> FlowRow:
    assert record.key is not None
    record.told_us = at_us
    first_us = max(record.first_us, from_us)
    return FlowRow(record.key, record.flows, record.sent, record.received, first_us, at_us, record.answered)
