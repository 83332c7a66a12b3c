"""What the kernel says in a form that we do not know: one error, or a value that is not ours and so is removed."""

from __future__ import annotations

import struct

import pytest
from segctl.errors import KernelError
from segctl_agent.nft.attributes import attribute, nested, string, text, u32
from segctl_agent.nft.dump import parse_chain, parse_elements, parse_rule
from segctl_agent.nft.ruleset import KeyType, Odd, SetSpec

VERDICTS = SetSpec((KeyType.UID,), verdicts=True)


def element(code: int) -> bytes:
    key = nested(1, attribute(1, struct.pack("=I", 33)))
    return nested(3, nested(1, key, nested(2, nested(2, u32(1, code)))))


def test_a_verdict_that_we_never_write_is_odd_and_not_an_error() -> None:
    """NF_QUEUE is 3: kernels before 6.8 take it from an element. Healing must be able to read what it removes."""
    (found,) = parse_elements([element(3)], VERDICTS).values()
    assert isinstance(found, Odd)


def test_a_name_that_is_no_text_is_written_back_byte_for_byte() -> None:
    found = parse_chain(string(1, "segctl") + attribute(3, b"\xff\xfe\0"), "segctl")
    assert found is not None
    assert string(3, found[0]) == attribute(3, b"\xff\xfe\0")
    assert text(b"name\0") == "name"


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (parse_rule, b""),
        (lambda m: parse_chain(m, "segctl"), string(1, "segctl") + string(3, "x") + nested(4, u32(1, 1))),
        (lambda m: parse_elements([m], VERDICTS), nested(3, nested(1, nested(1, attribute(1, b"\1"))))),
    ],
)
def test_what_lacks_a_part_is_an_error_that_says_what_it_is(decode, message) -> None:
    with pytest.raises(KernelError, match=r"the kernel describes an? (rule|chain|element) in a form"):
        decode(message)
