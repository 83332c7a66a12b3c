"""What others' tables say in a form that this version does not know ends a look, never the agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from segctl.errors import KernelError
from segctl_agent.nft.attributes import attribute, nested, string
from segctl_agent.nft.messages import GETCHAIN, GETRULE
from segctl_agent.nft.others import read_dumps

NAMES = string(1, "filter") + string(2, "FORWARD") + string(3, "FORWARD")


class Fake:
    def __init__(self, chains: list[bytes], rules: list[bytes]) -> None:
        self.messages = {GETCHAIN: chains, GETRULE: rules}

    def dump_families(self, command: int) -> Iterator[tuple[int, bytes]]:
        return iter([(2, message) for message in self.messages[command]])


@pytest.mark.parametrize(
    ("chains", "rules"),
    [
        ([NAMES + nested(4)], []),
        ([NAMES + nested(4, attribute(1, b""), attribute(2, b"\1"))], []),
        ([], [NAMES + nested(4, nested(1, attribute(2, b"\0notrack\0")))]),
    ],
)
def test_what_does_not_decode_is_one_error(chains: list[bytes], rules: list[bytes]) -> None:
    with pytest.raises(KernelError, match="the tables of others in a form that this version does not know"):
        read_dumps(Fake(chains, rules))


def test_what_decodes_is_taken() -> None:
    hook = nested(4, attribute(1, bytes(3) + b"\2"), attribute(2, bytes(4)))
    found = read_dumps(Fake([NAMES + hook], [NAMES + nested(4, nested(1, string(1, "notrack")))]))
    assert [where.chain for where, _ in found.bases] == ["FORWARD"]
    assert [rule.exprs[0].name for rule in found.rules] == ["notrack"]
