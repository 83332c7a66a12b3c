"""An owned table in the place of one without an owner, without a gap: pure, the transactions in their order.

The kernel gives no owner to a table that was made without one, and a packet that passes while a base chain is deleted
and made again is judged by nobody. So a copy of the whole table under another name judges too while the table is
replaced: make before break. A base chain whose rules are gone follows its policy until its hook is gone, so that one
lets pass first; the copy still judges. Either table alone is the whole policy, so a process that dies between two
transactions leaves the host enforced, and a copy that the next agent removes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from segctl_agent.nft.messages import Message, encode
from segctl_agent.nft.operations import AddChain, Batch, DeleteTable
from segctl_agent.nft.ownership import GUARDED
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import TABLE, Ruleset

STANDBY = f"{TABLE}-handover"
_DELETE = Batch((DeleteTable(),))


def handover(held: Ruleset, leftover: bool, table: str = TABLE) -> Iterator[list[Message]]:
    """The transactions that replace `table`, which holds `held`, by an owned one. `leftover`: an earlier handover did
    not come to its end."""
    make = plan(None, held)
    yield encode(_DELETE + make if leftover else make, STANDBY, GUARDED)
    yield encode(_let_pass(held), table)
    yield encode(_DELETE + make, table, GUARDED)
    yield from remove_standby(held)


def remove_standby(held: Ruleset) -> Iterator[list[Message]]:
    """`held`: what the standby table is a copy of."""
    yield encode(_let_pass(held), STANDBY)
    yield encode(_DELETE, STANDBY)


def _let_pass(held: Ruleset) -> Batch:
    bases = ((name, chain.base) for name, chain in sorted(held.chains.items()))
    return Batch(tuple(AddChain(name, replace(base, drop=False)) for name, base in bases if base is not None))
