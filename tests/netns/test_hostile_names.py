"""Objects in our table whose names are no text. nf_tables takes any bytes; healing must be able to remove them."""

from __future__ import annotations

import pytest
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.messages import encode
from segctl_agent.nft.netlink import Netlink
from segctl_agent.nft.operations import AddChain, AddRule, AddSet, Batch
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import INPUT, TABLE, Attributes, Chain, Expr, KeyType, Rule, Ruleset, SetSpec

from tests.netns.spaces import Space

pytestmark = pytest.mark.kernel
NAME = b"\xff\xfe".decode(errors="surrogateescape")
SPEC = SetSpec((KeyType.IPV4_ADDR,))
WANTED = Ruleset({"input": Chain((), INPUT), "kept": Chain()})


def test_a_chain_and_a_set_with_names_that_are_no_text_are_removed(space: Space) -> None:
    goes_there: Attributes = ((1, bytes(4)), (2, ((2, ((1, b"\xff\xff\xff\xfd"), (2, b"\xff\xfe\0"))),)))
    rule = Rule((Expr("immediate", goes_there),))

    def body() -> None:
        kernel = NetlinkKernel()
        kernel.apply(plan(None, WANTED))
        meddling = Batch((AddChain(NAME), AddSet(NAME, SPEC), AddRule("kept", rule)))
        with Netlink() as someone:
            someone.batch(encode(meddling, TABLE))
        found = kernel.read()
        assert found is not None
        assert NAME in found.chains
        assert NAME in found.sets
        assert found.chains["kept"].rules == (rule,)
        kernel.apply(plan(found, WANTED))
        assert kernel.read() == WANTED

    space.run(body)
