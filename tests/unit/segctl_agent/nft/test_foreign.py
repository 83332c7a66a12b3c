"""What this machine's kernel cannot hold, and what no kernel would: the analysis on values."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.nft.foreign import Finding, OtherRule, Snapshot, Weight, Where, analyse
from segctl_agent.nft.ruleset import BaseHook, Expr

MASK = 0xFFFFFF80
WHERE = Where("ip", "t", "c")
CT_LOAD = Expr("ct", ((1, struct.pack(">I", 1)), (2, struct.pack(">I", 3))))
CT_STORE = Expr("ct", ((2, struct.pack(">I", 3)), (4, struct.pack(">I", 1))))


def of(*exprs: Expr) -> tuple[Finding, ...]:
    return analyse(Snapshot((OtherRule(WHERE, exprs),)), MASK)


def n(value: int) -> bytes:
    return struct.pack(">I", value)


def bitwise(mask: int, xor: int = 0, operation: int = 0, target: int = 1) -> Expr:
    value = lambda number: ((1, struct.pack("=I", number)),)  # noqa: E731
    return Expr("bitwise", ((1, n(1)), (2, n(target)), (3, n(4)), (4, value(mask)), (5, value(xor)), (6, n(operation))))


def target(name: str, info: bytes, revision: int = 1) -> Expr:
    return Expr("target", ((1, name.encode() + b"\0"), (2, n(revision)), (3, info)))


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        (Expr("queue", ((1, b"\0\0"), (2, b"\0\1"), (3, b"\0\1"))), "NF_STOP"),
        (Expr("tproxy", ((1, n(2)),)), "TPROXY"),
        (Expr("flow_offload", ((1, b"fast\0"),)), "flowtable"),
        (target("NFQUEUE", bytes(8)), "NF_STOP"),
        (target("TPROXY", bytes(24)), "TPROXY"),
        (target("FLOWOFFLOAD", bytes(8)), "flowtable"),
        (target("CT", struct.pack("=H", 1) + bytes(30)), "connection tracking"),
    ],
)
def test_each_way_around_our_rules_is_named(expr: Expr, words: str) -> None:
    (found,) = of(expr)
    assert found.weight is Weight.INTERFERES
    assert words in str(found)


def test_a_helper_assigned_by_the_target_ct_is_no_notrack() -> None:
    assert of(target("CT", bytes(32))) == ()


@pytest.mark.parametrize(
    ("mode", "bits"),
    [(0, "0x00000180"), (1, "0xffffff80")],
)
def test_connmark_of_the_second_revision_has_its_mode_after_the_shift(mode: int, bits: str) -> None:
    shift = 1 if mode == 1 else 0
    (found,) = of(target("CONNMARK", struct.pack("=IIIBBBx", 0x100, 0xFF, 0xFF, 0, shift, mode), revision=2))
    assert bits in str(found)


def test_a_shift_of_the_mark_keeps_nothing() -> None:
    assert of(CT_LOAD, bitwise(0xFFFFFFFF), CT_STORE) == ()
    (found,) = of(CT_LOAD, bitwise(0, 0, operation=1), CT_STORE)
    assert "0xffffff80" in str(found)


def test_a_register_that_was_loaded_anew_is_no_conntrack_mark_any_more() -> None:
    meta = Expr("meta", ((1, n(1)), (2, n(3))))
    assert of(CT_LOAD, meta, CT_STORE) != ()
    assert of(CT_LOAD, bitwise(0xFF, target=2), CT_STORE) == ()


def test_the_same_thing_in_many_rules_of_a_chain_is_one_finding() -> None:
    snapshot = Snapshot(tuple(OtherRule(WHERE, (Expr("notrack", ()),)) for _ in range(100)))
    assert len(analyse(snapshot, MASK)) == 1


def test_bridges_and_forwarding_without_a_drop_are_nobodys_news() -> None:
    bases = (
        (Where("bridge", "b", "c"), BaseHook(1, drop=True)),
        (WHERE, BaseHook(1, drop=False)),
        (WHERE, BaseHook(0, drop=True)),
    )
    assert analyse(Snapshot(bases=bases), MASK) == ()
    assert len(analyse(Snapshot(bases=((WHERE, BaseHook(2)),)), MASK)) == 1


def test_what_nf_tables_cannot_see_is_said() -> None:
    found = analyse(Snapshot(legacy=("ip filter", "ip6 filter"), ipvs=True, unread=True), MASK)
    assert [f.weight for f in found] == [Weight.INFORMS, Weight.INTERFERES, Weight.INFORMS]


ATTRIBUTES = st.lists(
    st.tuples(
        st.integers(0, 9), st.binary(max_size=20) | st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=5)))
    ),
    max_size=6,
)
NAMES = st.sampled_from(["ct", "meta", "bitwise", "target", "queue", "lookup", "immediate", "", "x"])


@given(st.lists(st.tuples(NAMES, ATTRIBUTES), max_size=5), st.integers(0, 0xFFFFFFFF))
def test_whatever_a_rule_holds_it_is_looked_through(exprs: list, mask: int) -> None:
    made = tuple(
        Expr(name, tuple((k, v if isinstance(v, bytes) else tuple(v)) for k, v in attrs)) for name, attrs in exprs
    )
    for finding in analyse(Snapshot((OtherRule(WHERE, made),)), mask):
        assert str(finding)
