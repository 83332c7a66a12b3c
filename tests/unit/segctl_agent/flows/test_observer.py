"""Dumps in, rows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.errors import KernelError
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.conntrack.values import UDP, ConntrackRow
from segctl_agent.flows.attribution import Asked, Memory
from segctl_agent.flows.decisions import RecentDecisions
from segctl_agent.flows.observer import REFRESH_US, FlowObserver, name_of
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import FlowKey, FlowRow, FlowWindow

from tests.unit.segctl_agent.flows.rows import Layout, entry, mark, packed, policy, row, tcp

SECOND = 1_000_000
SHOP = LocalWorkload(
    "shop",
    Process(ProcessKind.UNIT, "shop.service"),
    Mode.ENFORCE,
    ingress=(entry("clients", "all", tcp(443)),),
    egress=(entry("shop-to-db", "db", tcp(5432)),),
)
POLICY = policy(SHOP, groups={"db": ("10.0.0.2/32",), "all": ("10.0.0.0/8",)}, host=Mode.OBSERVE)
OF_SHOP = "unit:shop.service"
TO_DB = FlowKey("out", "shop", packed("10.0.0.2"), 6, 5432, "shop-to-db", "allowed", OF_SHOP)


class Stage:
    """An observer that has seen an empty table at second 0."""

    def __init__(self, **more: Any) -> None:
        self.decisions = RecentDecisions()
        self.decisions.learn(
            {("out", 1): "", ("out", 2): "shop", ("in", 3): "shop", ("out", 4): "host", ("in", 4): "host"}
        )
        self.observer = FlowObserver(Layout(), self.decisions.workload, **more)
        self.index = PolicyIndex(POLICY)
        self.at = 0
        self.sees()

    def sees(self, *rows: ConntrackRow, seconds: int = 5) -> FlowWindow:
        self.at += seconds * SECOND
        return self.observer.observe([rows[:1], rows[1:]], self.index, self.at)


def to_db(port: int = 5000, **more: Any) -> ConntrackRow:
    return row("10.0.0.1", port, "10.0.0.2", 5432, mark=mark(outgoing=2), **more)


def test_new_flows_of_a_window_are_one_row_and_are_counted_once() -> None:
    stage = Stage()
    window = stage.sees(to_db(5000), to_db(5001))
    assert window == FlowWindow(
        5 * SECOND, 10 * SECOND, (FlowRow(TO_DB, 2, 0, 0, 10 * SECOND, 10 * SECOND, answered=True),)
    )
    assert stage.sees(to_db(5000), to_db(5001)).rows == ()
    assert [r.flows for r in stage.sees(to_db(5000), to_db(5001), to_db(5002)).rows] == [1]


def test_the_same_ends_under_another_id_are_another_flow() -> None:
    stage = Stage()
    stage.sees(to_db(id=1))
    assert [r.flows for r in stage.sees(to_db(id=2)).rows] == [1]


def test_an_entry_that_comes_twice_in_a_dump_counts_once() -> None:
    assert [r.flows for r in Stage().sees(to_db(), to_db()).rows] == [1]


def test_flows_that_were_there_before_the_agent_are_told_as_such() -> None:
    stage = Stage()
    stage.observer = FlowObserver(Layout(), stage.decisions.workload)
    assert [(r.key, r.flows) for r in stage.sees(to_db()).rows] == [(TO_DB, 0)]
    assert stage.sees(to_db()).rows == ()


def test_a_flow_that_began_before_a_push_bears_the_rule_that_let_it_pass() -> None:
    stage = Stage()
    without = LocalWorkload("shop", SHOP.process, Mode.ENFORCE)
    stage.index = PolicyIndex(policy(without, groups={}, host=Mode.OBSERVE))
    assert [r.key for r in stage.sees(to_db(5000)).rows] == [TO_DB]
    assert [r.key for r in stage.sees(to_db(5000), to_db(5001)).rows] == [replace(TO_DB, rule="")]


def test_a_flow_that_began_before_the_end_of_its_rule_bears_its_name() -> None:
    stage = Stage()
    box = LocalWorkload("shop", SHOP.process, Mode.ENFORCE, egress=(replace(SHOP.egress[0], until=12),))
    stage.index = PolicyIndex(policy(box, groups={"db": ("10.0.0.2/32",)}, host=Mode.OBSERVE))
    stage.sees()
    assert [r.key.rule for r in stage.sees(to_db(5000)).rows] == ["shop-to-db"]
    assert [r.key.rule for r in stage.sees(to_db(5001)).rows] == [""]


def test_a_row_is_told_again_while_its_flows_live_on() -> None:
    stage = Stage()
    stage.sees(to_db())
    assert stage.sees(to_db(), seconds=REFRESH_US // SECOND - 1).rows == ()
    window = stage.sees(to_db(), seconds=1)
    assert [(r.flows, r.first_us, r.last_us) for r in window.rows] == [(0, window.from_us, window.until_us)]
    assert stage.sees(seconds=600).rows == ()


def test_a_connection_that_nobody_took_is_told_again_once_one_is_taken() -> None:
    stage = Stage()
    assert [r.answered for r in stage.sees(to_db(status=0)).rows] == [False]
    assert stage.sees(to_db(status=0)).rows == ()
    assert [(r.flows, r.answered) for r in stage.sees(to_db()).rows] == [(0, True)]
    assert stage.sees(to_db(), to_db(5001, status=0)).rows[0].answered  # of its kind one was taken
    assert stage.sees(row("10.0.0.1", 1, "10.0.0.2", 2, mark=mark(outgoing=2), protocol=UDP, status=0)).rows[0].answered


def test_bytes_are_those_of_the_window_by_who_sent_them() -> None:
    stage = Stage()
    sent, received = {"original_bytes": 100, "reply_bytes": 1000}, {"original_bytes": 160, "reply_bytes": 1500}
    incoming = row("10.0.0.9", 6000, "10.0.0.1", 443, mark=mark(incoming=3), **sent)
    first = stage.sees(to_db(**sent), incoming)
    assert [(r.key.direction, r.bytes_sent, r.bytes_received) for r in first.rows] == [
        ("out", 100, 1000),
        ("in", 1000, 100),
    ]
    second = stage.sees(to_db(**received), incoming)
    assert [(r.flows, r.bytes_sent, r.bytes_received) for r in second.rows] == [(0, 60, 500)]
    assert stage.sees(to_db(**received), incoming).rows == ()
    over = stage.sees(to_db(tcp_state=7, original_bytes=200, reply_bytes=1500))
    assert [(r.bytes_sent, r.bytes_received) for r in over.rows] == [(40, 0)]
    assert stage.sees(to_db(tcp_state=7, original_bytes=200, reply_bytes=1500)).rows == ()


@pytest.mark.parametrize(
    "entry_",
    [
        row("10.0.0.1", 1, "10.0.0.2", 5432),  # loopback, forwarded: no id
        row("10.0.0.1", 1, "10.0.0.2", 53, 17, mark=mark(outgoing=1)),  # an essential
        row("10.0.0.1", 1, "10.0.0.2", 5432, mark=mark(outgoing=99)),  # of an agent before this one
    ],
)
def test_left_out(entry_: ConntrackRow) -> None:
    assert Stage().sees(entry_) == FlowWindow(5 * SECOND, 10 * SECOND, ())


def test_a_flow_under_an_id_that_died_is_still_somebodys() -> None:
    stage = Stage()
    stage.decisions.learn({("out", 7): "shop"})
    assert stage.sees(to_db()).rows[0].key == TO_DB


def test_a_flow_between_two_containers_has_two_rows() -> None:
    window = Stage().sees(row("10.0.0.1", 5000, "10.0.0.2", 443, mark=mark(outgoing=4, incoming=3)))
    assert [(r.key.direction, r.key.workload, r.key.rule, r.key.verdict) for r in window.rows] == [
        ("out", "host", "", "observed"),
        ("in", "shop", "clients", "allowed"),
    ]


def test_a_redirected_port_is_told_as_on_the_wire_and_judged_as_the_hook_saw_it() -> None:
    incoming = row("10.0.0.9", 6000, "10.0.0.1", 80, mark=mark(incoming=3))._replace(reply_source_port=443)
    assert Stage().sees(incoming).rows[0].key == FlowKey(
        "in", "shop", packed("10.0.0.9"), 6, 80, "clients", "allowed", OF_SHOP
    )
    outgoing = row("10.0.0.1", 6000, "10.96.0.1", 443, mark=mark(outgoing=2))
    outgoing = outgoing._replace(reply_source=packed("10.0.0.2"), reply_source_port=5432)
    assert Stage().sees(outgoing).rows[0].key == TO_DB


def test_a_session_older_than_the_table_is_turned_where_only_that_is_permitted() -> None:
    answered = row("10.0.0.1", 443, "10.0.0.9", 6000, mark=mark(outgoing=2, loose=True))
    key = Stage().sees(answered).rows[0].key
    assert key == FlowKey("in", "shop", packed("10.0.0.9"), 6, 443, "clients", "allowed", OF_SHOP)
    # The way back marks the flow with the decision of the direction it was permitted in.
    stage = Stage()
    sent = {"original_bytes": 100, "reply_bytes": 7}
    stage.sees(answered._replace(mark=mark(incoming=3, loose=True)))
    (counted,) = stage.sees(answered._replace(mark=mark(incoming=3, loose=True), id=9, **sent)).rows
    assert (counted.key, counted.bytes_sent, counted.bytes_received) == (key, 100, 7)
    straight = to_db()._replace(mark=mark(outgoing=2, loose=True))
    assert Stage().sees(straight).rows[0].key == TO_DB


def test_after_a_change_of_policy_flows_have_the_rule_that_permits_them_then() -> None:
    stage = Stage()
    stage.sees(to_db(), to_db(5001))
    shop = LocalWorkload("shop", SHOP.process, Mode.TEST)
    stage.index = PolicyIndex(policy(shop, groups={}))
    window = stage.sees(to_db(), to_db(5001), to_db(5002))
    assert [(r.key.rule, r.key.verdict, r.flows) for r in window.rows] == [("", "would-deny", 1)]


def test_a_window_begins_where_the_kernel_says_that_a_flow_began() -> None:
    stage = Stage()
    window = stage.sees(to_db(started_ns=7 * SECOND * 1000), to_db(5001, started_ns=8 * SECOND * 1000))
    assert [(r.first_us, r.last_us) for r in window.rows] == [(7 * SECOND, 10 * SECOND)]


def test_what_finds_no_room_is_lost_and_counted() -> None:
    stage = Stage(max_flows=2)
    window = stage.sees(to_db(1), to_db(2), to_db(3))
    assert ([r.flows for r in window.rows], window.lost) == ([2], 1)
    window = stage.sees(to_db(2), to_db(3))
    assert ([r.flows for r in window.rows], window.lost) == ([], 1)  # the room of flow 1 is free after this dump
    window = stage.sees(to_db(2), to_db(3))
    assert ([r.flows for r in window.rows], window.lost) == ([1], 0)


def test_keys_are_bounded_and_their_flows_lost_once() -> None:
    stage = Stage(max_keys=1)
    incoming = row("10.0.0.9", 6000, "10.0.0.1", 443, mark=mark(incoming=3))
    assert (stage.sees(to_db(), incoming).lost, stage.sees(to_db(), incoming).lost) == (1, 0)
    stage.sees(incoming)
    another = incoming._replace(source_port=6001, reply_destination_port=6001)
    assert [r.key.direction for r in stage.sees(another).rows] == ["in"]


def test_a_dump_that_breaks_loses_nothing_and_counts_nothing_twice() -> None:
    stage = Stage()
    stage.sees(to_db(1))

    def breaks() -> Any:
        yield [to_db(2)]
        raise KernelError("no more")

    with pytest.raises(KernelError):
        stage.observer.observe(breaks(), stage.index, stage.at + SECOND)
    assert [r.flows for r in stage.sees(to_db(1), to_db(2)).rows] == [1]
    assert stage.sees(to_db(1), to_db(2)).rows == ()


class Processes:
    """A ProcessesOf that knows flows by their local port, and remembers what it was asked."""

    def __init__(self, known: dict[int, str]) -> None:
        self.known, self.asked = known, list[list[int]]()

    def __call__(self, asked: Sequence[Asked]) -> list[str]:
        self.asked.append([one.local_port for one in asked])
        return [self.known.get(one.local_port, "") for one in asked]


OPEN = row("10.0.0.1", 1, "10.0.0.2", 80, mark=mark(outgoing=4))


def calls(*ports: int, **more: Any) -> list[ConntrackRow]:
    """Of the workload `host`, which names no process."""
    return [OPEN._replace(source_port=port, id=port, **more) for port in ports]


def processes_of(window: FlowWindow) -> dict[str, int]:
    return {r.key.process: r.flows for r in window.rows}


def test_processes_are_asked_for_once_a_dump_and_only_for_new_flows() -> None:
    processes = Processes({1: "unit:a.service", 2: "unit:b.service", 3: "unit:b.service"})
    stage = Stage(processes_of=processes)
    assert processes_of(stage.sees(*calls(1, 2))) == {"unit:a.service": 1, "unit:b.service": 1}
    assert processes_of(stage.sees(*calls(1, 2))) == {}
    assert processes_of(stage.sees(*calls(1, 2, 3))) == {"unit:b.service": 1}
    assert processes.asked == [[1, 2], [3]]
    stage.index = PolicyIndex(policy(SHOP, groups={}, host=Mode.TEST))
    window = stage.sees(*calls(1, 2, 3, 4))
    assert {r.key.verdict for r in window.rows} == {"would-deny"}
    assert processes_of(window) == {"unit:a.service": 0, "unit:b.service": 1}  # 4 is most likely of who called last
    assert processes.asked[2:] == [[4]]


def test_a_flow_that_is_over_is_of_who_called_last_and_one_that_comes_in_is_asked_for() -> None:
    processes = Processes({1: "unit:a.service", 443: "unit:web.service"})
    stage = Stage(processes_of=processes)
    assert processes_of(stage.sees(*calls(9, tcp_state=7))) == {"": 1}
    assert processes_of(stage.sees(*calls(1))) == {"unit:a.service": 1}
    assert processes_of(stage.sees(*calls(2, tcp_state=7))) == {"unit:a.service": 1}
    taken = row("10.0.0.9", 6000, "10.0.0.1", 443, mark=mark(incoming=4), tcp_state=7)
    assert processes_of(stage.sees(taken)) == {"unit:web.service": 1}
    assert processes.asked == [[1], [443]]


def test_a_flow_that_was_witnessed_is_not_asked_for() -> None:
    processes, memory = Processes({}), Memory()
    stage = Stage(processes_of=processes, memory=memory)
    memory.witness(name_of(calls(1)[0], "out"), "unit:short.service")
    assert processes_of(stage.sees(*calls(1, tcp_state=7))) == {"unit:short.service": 1}
    assert processes.asked == []


def test_beyond_the_bound_processes_are_remembered() -> None:
    processes = Processes(dict.fromkeys(range(9), "unit:a.service"))
    stage = Stage(processes_of=processes, max_asked=2)
    assert processes_of(stage.sees(*calls(1, 2, 3, 4))) == {"unit:a.service": 4}
    assert processes.asked == [[1, 2]]


@given(st.lists(st.sets(st.integers(1, 30)), max_size=8), st.booleans())
def test_every_flow_is_told_once(dumps: Sequence[set[int]], counted: bool) -> None:
    """Against the plain definition: in this dump and not in the one before."""
    stage, before = Stage(), set[int]()
    told: Counter[FlowKey] = Counter()
    wanted = 0
    for dump in dumps:
        more = {"original_bytes": 10} if counted else {}
        window = stage.sees(*(to_db(port, **more) for port in sorted(dump)))
        told.update({r.key: r.flows for r in window.rows})
        wanted += len(dump - before)
        before = dump
        assert window.lost == 0
    assert told[TO_DB] == wanted
