"""Bytes out, values in: what is packed is what is parsed."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.errors import KernelError, KernelFullError
from segctl_agent.nft.attributes import attribute, attributes, nested, number, string, text, u32, u64
from segctl_agent.nft.dump import parse_elements, parse_expr, parse_rule, parse_set
from segctl_agent.nft.keys import Keys
from segctl_agent.nft.messages import NEWSETELEM, encode, expression_bytes, expressions, set_attributes
from segctl_agent.nft.netlink import kernel_error
from segctl_agent.nft.operations import AddElements, AddSet, Batch, DeleteChain, describe
from segctl_agent.nft.ruleset import ACCEPT, DROP, Counts, Data, Elements, KeyType, NftSet, Odd, SetSpec, goto

from tests.decided import rendered
from tests.netns.samples import SAMPLES, SHOP_FACTS

FLOW = SetSpec((KeyType.IPV6_ADDR, KeyType.INET_PROTO, KeyType.INET_SERVICE))
NETWORKS = SetSpec((KeyType.IPV4_ADDR,), interval=True)
CGROUPS = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
AGAIN = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_SERVICE, KeyType.INET_SERVICE), size=16_384, timeout_ms=3000)


def elements_of(spec: SetSpec, elements: Elements) -> list[bytes]:
    return [m.payload for m in encode(Batch((AddElements("x", spec, elements),)), "t")]


@given(st.lists(st.tuples(st.integers(1, 99), st.binary(max_size=30))))
def test_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(k, v) for k, v in pairs))) == pairs


def test_attributes_of_broken_data_end() -> None:
    assert list(attributes(b"\x02\0\1\0" + bytes(8))) == []
    assert list(attributes(b"\x08\0")) == []


def test_numbers_and_strings() -> None:
    data = u32(1, 7) + u64(2, 1 << 40) + string(3, "abc") + nested(4, u32(1, 1))
    found = dict(attributes(data))
    assert (number(found[1]), number(found[2]), text(found[3])) == (7, 1 << 40, "abc")
    assert dict(attributes(found[4])) == {1: b"\0\0\0\1"}


@pytest.mark.parametrize("name", SAMPLES)
def test_rules_come_back(name: str) -> None:
    for chain, content in rendered(SAMPLES[name], SHOP_FACTS).chains.items():
        for rule in content.rules:
            assert parse_rule(string(1, "t") + string(2, chain) + expressions(rule)) == (chain, rule)


def test_a_counters_values_are_no_configuration() -> None:
    counted = string(1, "counter") + nested(2, attribute(1, b"\1" * 8) + attribute(2, b"\2" * 8))
    assert expression_bytes(parse_expr(counted)) == attribute(1, bytes(8)) + attribute(2, bytes(8))


@pytest.mark.parametrize("spec", [FLOW, NETWORKS, CGROUPS, SetSpec((KeyType.UID,), verdicts=True, size=512), AGAIN])
def test_specs_come_back(spec: SetSpec) -> None:
    assert parse_set(string(1, "t") + string(2, "name") + set_attributes(spec)) == ("name", spec)


def test_a_set_with_a_timeout_that_is_not_dynamic_is_foreign() -> None:
    message = string(1, "t") + string(2, "name") + set_attributes(FLOW) + u64(11, 1000)
    assert parse_set(message) == ("name", None)


def test_a_dynamic_set_has_no_elements_of_ours() -> None:
    with pytest.raises(ValueError, match="dynamic"):
        NftSet(AGAIN, {bytes(12): None})


@given(st.dictionaries(st.binary(min_size=24, max_size=24), st.none(), max_size=40))
def test_flow_elements_come_back(elements: dict[bytes, Data]) -> None:
    assert parse_elements(elements_of(FLOW, elements), FLOW) == elements


COUNTING = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_PROTO, KeyType.INET_SERVICE), counts=True)


@given(st.dictionaries(st.binary(min_size=12, max_size=12), st.sampled_from((Counts("r_in_a"), Counts("r_in_b-c")))))
def test_counted_elements_come_back(elements: dict[bytes, Data]) -> None:
    assert parse_elements(elements_of(COUNTING, elements), COUNTING) == elements


@pytest.mark.parametrize("width", [4, 8, 12, 16, 24])
def test_keys_are_packed_as_dictionaries_are(width: int) -> None:
    keys = {n: next(k for k in KeyType if k.length == n) for n in (4, 8, 16)}
    spec = SetSpec((keys[width],)) if width in keys else {12: replace(COUNTING, counts=False), 24: FLOW}[width]
    found = [bytes([n % 256]) * (width - 2) + n.to_bytes(2, "big") for n in range(9000)]
    packed = elements_of(spec, Keys.of(width, found))
    assert packed == elements_of(spec, dict.fromkeys(sorted(found)))
    read = parse_elements([*(string(2, "x") + p for p in reversed(packed)), string(2, "x") + nested(3)], spec)
    assert isinstance(read, Keys)
    assert read == Keys.of(width, found)


@given(st.dictionaries(st.binary(min_size=8, max_size=8), st.sampled_from((ACCEPT, DROP, goto("w1_in"), goto("x")))))
def test_verdict_elements_come_back(elements: dict[bytes, Data]) -> None:
    assert parse_elements(elements_of(CGROUPS, elements), CGROUPS) == elements


@given(st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=20))
def test_intervals_come_back(bounds: list[int]) -> None:
    """Disjoint intervals with a gap of at least one between them."""
    bounds = sorted(bounds)
    ranges: dict[bytes, Data] = {}
    last = -2
    for low, high in zip(bounds[::2], bounds[1::2], strict=False):
        if low > last + 1:
            ranges[low.to_bytes(4, "big") + high.to_bytes(4, "big")] = None
            last = high
    assert parse_elements(elements_of(NETWORKS, ranges), NETWORKS) == ranges


def test_a_catch_all_and_what_we_never_write_are_seen() -> None:
    key = nested(1, attribute(1, b"12345678"))
    catch_all = nested(1, u32(3, 2), nested(2, nested(2, u32(1, 1))))
    timed = nested(1, key, u64(4, 5))
    message = nested(3, catch_all, timed)
    found = parse_elements([message], CGROUPS)
    assert found[b""] == ACCEPT
    assert isinstance(found[b"12345678"], Odd)


def test_large_sets_are_cut_into_messages_below_the_attribute_limit() -> None:
    keys: dict[bytes, Data] = {i.to_bytes(24, "big"): None for i in range(10_000)}
    messages = encode(Batch((AddSet("x", FLOW), AddElements("x", FLOW, keys))), "t")
    assert len(messages) > 3
    assert all(len(m.payload) < 65_536 for m in messages)
    assert parse_elements([m.payload for m in messages if m.command == NEWSETELEM], FLOW) == keys


def test_errors_say_what_was_tried_and_what_to_do() -> None:
    full = kernel_error(errno.ENFILE, describe(AddElements("w1_in4", FLOW, {})))
    assert isinstance(full, KernelFullError)
    assert "w1_in4" in str(full)
    for code, hint in ((errno.EPERM, "CAP_NET_ADMIN"), (errno.EOPNOTSUPP, "nf_tables"), (errno.EBUSY, "refers")):
        error = kernel_error(code, describe(DeleteChain("w1_in")), "why")
        assert isinstance(error, KernelError)
        assert not isinstance(error, KernelFullError)
        assert "delete chain w1_in" in str(error)
        assert hint in str(error)
