"""AddressSet is a set of addresses, whatever happens to it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.addresses import Address, AddressSet

addresses = st.one_of(
    st.integers(0, 40).map(lambda n: IPv4Address(0x0A000000 + n)),
    st.integers(0, 40).map(lambda n: IPv6Address((0xFD << 120) + n)),
)
sets = st.sets(addresses, max_size=30)


@settings(deadline=None)
@given(sets, sets, sets)
def test_it_is_what_a_set_is(before: set[Address], added: set[Address], removed: set[Address]) -> None:
    found = AddressSet.of(before)
    assert set(found) == before
    assert len(found) == len(before)
    assert all((a in found) is (a in before) for a in added)
    changed = found.changed(added, removed)
    assert changed == AddressSet.of((before - removed) | added)
    more, less = found.difference(changed)
    assert (set(more), set(less)) == (set(changed) - before, before - set(changed))
    assert (found <= changed) is (before <= set(changed))
    assert AddressSet.parse(found.v4, found.v6) == found


@pytest.mark.parametrize(
    ("v4", "v6"),
    [
        (b"\x0a\0\0", b""),
        (b"\x0a\0\0\2\x0a\0\0\1", b""),
        (b"\x0a\0\0\1\x0a\0\0\1", b""),
        (b"", bytes(15)),
        (b"", bytes(32)),
    ],
)
def test_what_is_not_ascending_is_refused(v4: bytes, v6: bytes) -> None:
    with pytest.raises(ValueError, match="addresses"):
        AddressSet.parse(v4, v6)
