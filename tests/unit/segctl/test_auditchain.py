"""The audit log's chain: whatever is changed, left out, put in or cut off is found by who reads it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.auditchain import GENESIS, ChainError, Link, Verifier, link_hash, parse_line

TEXTS = ("actor", "action", "subject", "detail", "identity", "peer")


def chain(length: int) -> list[Link]:
    links, previous = [], GENESIS
    for number in range(1, length + 1):
        texts = dict(zip(TEXTS, (f"a{number}", "push", "x", "\u20ac", "", "10.0.0.1"), strict=True))
        chained = link_hash(previous, number, number, *texts.values())
        links.append(Link(number, number, **texts, previous=previous, hash=chained))
        previous = chained
    return links


def verified(links: list[Link], since: str = "") -> Verifier:
    verifier = Verifier(since)
    for link in links:
        verifier.take(link)
    verifier.finish()
    return verifier


def test_a_log_as_it_was_written_is_good() -> None:
    links = chain(5)
    verifier = verified(links)
    assert (verifier.count, verifier.head) == (5, links[-1].hash)
    assert [parse_line(link.line(), "f:1") for link in links] == links


def test_the_hash_is_what_the_documentation_says() -> None:
    """Others must be able to verify without our code: (head -c 32 /dev/zero; printf TEXT) | sha256sum."""
    assert link_hash(GENESIS, 1, 2, "a", "b", "c", "d", "e", "f") == (
        "adfd594af3bd8ecad4e0640f39f03b85e1436fe9fb4701c61e5e6b9d9179fad0"
    )


@given(
    st.integers(0, 4),
    st.sampled_from([*TEXTS, "at_us", "previous", "hash", "sequence"]),
    st.text(min_size=1, max_size=4),
)
def test_any_change_of_any_entry_is_found(at: int, name: str, text: str) -> None:
    links = chain(5)
    was = getattr(links[at], name)
    changed = was + 1 if isinstance(was, int) else ("f" + was[1:] if was[:1] != "f" else "0" + was[1:])
    links[at] = replace(links[at], **{name: text if name in TEXTS and text != was else changed})
    with pytest.raises(ChainError):
        verified(links)


@given(st.lists(st.integers(0, 4), max_size=6))
def test_only_a_beginning_in_order_is_good(order: list[int]) -> None:
    links = chain(5)
    picked = [links[i] for i in order]
    if picked == links[: len(picked)]:
        verified(picked)
    else:
        with pytest.raises(ChainError):
            verified(picked)


def test_a_log_written_anew_is_found_by_a_head_that_was_noted() -> None:
    links = chain(5)
    assert verified(links, since=links[2].hash[:12].upper()).count == 5
    with pytest.raises(ChainError, match="its end was cut off"):
        verified(links[:2], since=links[2].hash)


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"sequence": 1}', chain(1)[0].line().replace(": 1,", ': "1",')])
def test_a_line_that_is_no_entry_says_where(line: str) -> None:
    with pytest.raises(ChainError, match=r"export\.jsonl:3"):
        parse_line(line, "export.jsonl:3")
