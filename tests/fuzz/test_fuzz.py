"""Whatever bytes come in, a decoder answers, or refuses with the error it documents; in bounded time and memory."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import access, kernel, network
from tests.fuzz.target import Edit, Kind, Target, mutated

TARGETS = (*kernel.TARGETS, *network.TARGETS, *access.TARGETS)
_LARGE = 1 << 18
_MEMORY_EACH_BYTE = 400
"""A decoded element, a minimal attribute of 4 bytes above all, is Python objects of some hundred bytes."""

_places = st.integers(0, 600)
_numbers = st.sampled_from((0, 1, 3, 4, 5, 7, 8, 12, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFC, 0xFFFF))
_lengths = st.tuples(_numbers, st.sampled_from(("little", "big"))).map(lambda n: n[0].to_bytes(2, n[1]))
_contents = st.one_of(_lengths, st.binary(min_size=1, max_size=12), st.integers(1, 60).map(bytes))
_edits = st.lists(st.builds(Edit, st.sampled_from(Kind), _places, _contents), max_size=6)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Mostly whole inputs with a few mutations, which get further than noise does."""
    changed = st.builds(mutated, st.sampled_from(target.samples), _edits)
    return st.one_of(changed, changed, changed, st.binary(max_size=200))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_decoder_answers_or_refuses_with_its_own_error(target: Target) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(inputs(target))
    def check(data: bytes) -> None:
        target.check(data)

    check()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_the_samples_are_taken(target: Target) -> None:
    """A sample that its decoder refuses would be no seed of anything."""
    taken = all(target.check(sample) for sample in target.samples)
    assert taken or target.name == "enrol-reply"  # whose certificate would have to be issued by the fleet's CA


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("unit", [b"\0", b"\xff", b"\x04\0\x01\0", b"\x08\0\x01\x80\x04\0\x01\0", None], ids=repr)
def test_memory_is_bounded_by_the_input(target: Target, unit: bytes | None) -> None:
    """None: the sample over and over. Time is bounded by the test's own limit: nothing is quadratic."""
    unit = unit or target.samples[0]
    data = unit * (_LARGE // len(unit))
    tracemalloc.start()
    try:
        with suppress(*target.errors):
            target.run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _MEMORY_EACH_BYTE * len(data), f"{peak} bytes for {len(data)}"
