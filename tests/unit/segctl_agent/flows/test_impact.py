"""Which live flows a draft would end, and how a controller's question is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from segctl import wire
from segctl.errors import KernelError, WireError
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, Process, ProcessKind
from segctl_agent.conntrack.reader import Tally
from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.conversation import ImpactAsked
from segctl_agent.denials.values import Attribution
from segctl_agent.flows.answer import ImpactAnswerer, read_draft
from segctl_agent.flows.decisions import RecentDecisions
from segctl_agent.flows.impact import Impact, impact
from segctl_agent.flows.permits import PolicyIndex

from tests.unit.segctl_agent.flows.rows import Layout, entry, mark, packed, policy, row, tcp

UNIT = Process(ProcessKind.UNIT, "shop.service")
GROUPS = {"db": ("10.0.0.2/32",), "all": ("10.0.0.0/8",)}
SHOP = LocalWorkload(
    "shop",
    UNIT,
    Mode.ENFORCE,
    ingress=(entry("clients", "all", tcp(443)),),
    egress=(entry("shop-to-db", "db", tcp(5432)),),
)
RESCUE = Essentials(rescue=(ip_network("10.0.9.0/24"),))
NOW = policy(SHOP, groups=GROUPS, essentials=RESCUE)
NARROW = policy(replace(SHOP, egress=()), groups=GROUPS, essentials=RESCUE)

TO_DB = row("10.0.0.1", 5000, "10.0.0.2", 5432, mark=mark(outgoing=2))
CLIENT = row("10.0.0.9", 6000, "10.0.0.1", 443, mark=mark(incoming=3))
ADMIN = row("10.0.9.7", 7000, "10.0.0.1", 22, mark=mark(incoming=1))
CHANNEL = row("10.0.0.1", 7001, "10.0.0.200", 7443, mark=mark(outgoing=1))


def decisions() -> RecentDecisions:
    found = RecentDecisions()
    found.learn({("out", 1): "", ("in", 1): "", ("out", 2): "shop", ("in", 3): "shop", ("out", 4): "shop"})
    return found


def would(draft: HostPolicy, *rows: ConntrackRow, limit: int = 10) -> Impact:
    index = PolicyIndex(draft)
    return impact(PolicyIndex(NOW), index, [rows], Layout(), decisions().workload, 0.0, limit)


def test_a_flow_that_the_draft_does_not_permit_is_cut_and_named_with_its_rule() -> None:
    found = would(NARROW, TO_DB, CLIENT)
    assert (found.live, found.cut) == (2, 1)
    assert [(c.workload, c.side.remote, c.side.service, c.rule) for c in found.named] == [
        ("shop", packed("10.0.0.2"), 5432, "shop-to-db")
    ]


def test_the_draft_in_force_cuts_nothing() -> None:
    assert would(NOW, TO_DB, CLIENT, ADMIN, CHANNEL) == Impact(4, 0, ())


def test_all_are_counted_and_some_are_named() -> None:
    many = [TO_DB._replace(source_port=5000 + i) for i in range(5)]
    found = would(NARROW, *many, limit=2)
    assert (found.live, found.cut, len(found.named)) == (5, 5, 2)


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.TEST])
def test_modes_that_deny_nothing_cut_nothing(mode: Mode) -> None:
    assert would(policy(LocalWorkload("shop", UNIT, mode)), TO_DB, CLIENT).cut == 0


def test_without_its_workload_a_flow_is_one_of_the_host() -> None:
    assert would(policy(), TO_DB).cut == 1
    assert would(policy(host=Mode.OBSERVE), TO_DB).cut == 0


def test_an_essential_that_the_draft_drops_is_cut_and_the_built_in_ones_never_are() -> None:
    found = would(policy(SHOP, groups=GROUPS), ADMIN, CHANNEL)
    assert (found.live, found.cut, found.named[0].workload, found.named[0].rule) == (2, 1, "host", "")


def test_a_flow_of_a_workload_lives_on_as_an_essential() -> None:
    draft = policy(replace(SHOP, ingress=()), essentials=Essentials(rescue=(ip_network("10.0.0.9/32"),)))
    ssh = CLIENT._replace(destination_port=22, reply_source_port=22)
    assert (would(draft, ssh).cut, would(draft, CLIENT).cut) == (0, 1)


def test_a_session_older_than_the_table_lives_on_by_either_direction() -> None:
    for decision in ({"outgoing": 2}, {"incoming": 3}):
        turned = row("10.0.0.1", 443, "10.0.0.9", 6000, mark=mark(**decision, loose=True))
        assert would(NARROW, turned).cut == 0
        assert would(policy(replace(SHOP, ingress=()), groups=GROUPS), turned).cut == 1


def test_two_halves_are_one_flow_and_both_must_be_permitted() -> None:
    both = row("10.0.0.1", 5000, "10.0.0.2", 5432, mark=mark(outgoing=2, incoming=3))
    found = would(policy(), both)
    assert (found.live, found.cut) == (1, 1)


def test_what_is_over_or_of_nobody_is_not_live() -> None:
    over = TO_DB._replace(tcp_state=7)
    foreign = TO_DB._replace(mark=mark())
    unknown = TO_DB._replace(mark=mark(outgoing=77))
    assert would(NARROW, over, foreign, unknown) == Impact(0, 0, ())


class FakeTable:
    def __init__(self, *rows: ConntrackRow, error: str = "") -> None:
        self.rows, self.error = rows, error

    def read(self, tally: Tally | None = None, *, mark: int = 0, mask: int = 0) -> Iterator[Sequence[ConntrackRow]]:
        if self.error:
            raise KernelError(self.error)
        yield self.rows

    def count(self) -> int:
        return len(self.rows)

    def delete(self, row: ConntrackRow) -> bool:
        return True


def answerer(table: FakeTable) -> ImpactAnswerer:
    live: Any = {("out", 2): "shop", ("in", 3): "shop"}
    return ImpactAnswerer(
        "web-1",
        table,
        Layout(),
        RecentDecisions(),
        lambda: NOW,
        lambda: live,
        lambda found: [Attribution()] * len(found),
        lambda: 0.0,
    )


def serialized(draft: HostPolicy) -> bytes:
    return wire.host_policy_to_wire(draft).SerializeToString()


async def test_a_question_is_answered_with_counts_and_connections() -> None:
    # No socket here has these ends: the process stays unknown.
    reply = await answerer(FakeTable(TO_DB, CLIENT)).answer(ImpactAsked(9, serialized(NARROW), 10))
    assert (reply.id, reply.live, reply.cut, reply.error) == (9, 2, 1, "")
    (cut,) = reply.connections
    assert (cut.ingress, cut.workload, cut.remote, cut.rule) == (False, "shop", packed("10.0.0.2"), "shop-to-db")
    assert (cut.service.protocol, cut.service.low, cut.service.high) == ("tcp", 5432, 5432)
    assert (cut.local_port, cut.remote_port, cut.process.pid) == (5000, 0, 0)


async def test_an_incoming_connection_is_named_by_its_remote_port() -> None:
    draft = policy(replace(SHOP, ingress=()), groups=GROUPS)
    reply = await answerer(FakeTable(CLIENT)).answer(ImpactAsked(9, serialized(draft), 10))
    (cut,) = reply.connections
    assert (cut.ingress, cut.remote_port, cut.local_port, cut.service.low) == (True, 6000, 0, 443)


async def test_what_the_kernel_refuses_is_the_answer() -> None:
    reply = await answerer(FakeTable(error="no conntrack")).answer(ImpactAsked(9, serialized(NARROW), 10))
    assert (reply.id, reply.error) == (9, "no conntrack")


async def test_a_draft_that_cannot_be_trusted_is_refused() -> None:
    reply = await answerer(FakeTable()).answer(ImpactAsked(9, b"\xff", 10))
    assert "does not decode" in reply.error
    with pytest.raises(WireError, match="for the host 'web-2'"):
        read_draft(serialized(replace(NOW, host="web-2")), "web-1")
    message = wire.host_policy_to_wire(NOW)
    message.generation += 1
    with pytest.raises(WireError, match="does not fit its digest"):
        read_draft(message.SerializeToString(), "web-1")
