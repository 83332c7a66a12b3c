"""An owned table in the place of one without an owner, without a gap: pure, the transactions in their order.

The kernel gives no owner to a table that was made without one, and a packet that passes while a base chain is deleted
and made again is judged by nobody. So a copy of the whole table under another name judges too while the table is
replaced: make before break. What a packet may meet in a transaction decides the steps: a new base chain with its policy
and without its rules, an old one without its rules, sets without their elements while it walks the rules. So a table
comes and goes in steps between which packets need time to finish their walk: with the policy accept, and its base
chains emptied before it is deleted. Either table alone is the whole policy, so a process that dies on the way leaves
the host enforced, and a copy that the next agent removes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from segctl_agent.nft.messages import Message, encode
from segctl_agent.nft.operations import AddChain, Batch, DeleteTable, FlushChain
from segctl_agent.nft.ownership import GUARDED
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import TABLE, Ruleset

STANDBY = f"{TABLE}-handover"
_DELETE = Batch((DeleteTable(),))


def handover(held: Ruleset, leftover: bool, table: str = TABLE) -> Iterator[list[Message]]:
    """The transactions that replace `table`, which holds `held`, by an owned one. `leftover`: an earlier handover did
    not come to its end. Packets need a moment between two of them."""
    if leftover:
        yield from remove_standby(held)
    yield from _make(held, STANDBY, Batch())
    yield from _empty(held, table)
    yield from _make(held, table, _DELETE)
    yield from remove_standby(held)


def remove_standby(held: Ruleset) -> Iterator[list[Message]]:
    """`held`: what the standby table is a copy of."""
    yield from _empty(held, STANDBY)
    yield encode(_DELETE, STANDBY)


def _make(held: Ruleset, table: str, first: Batch) -> Iterator[list[Message]]:
    bases = {
        name: replace(chain, base=replace(chain.base, drop=False)) for name, chain in held.chains.items() if chain.base
    }
    yield encode(first + plan(None, replace(held, chains={**held.chains, **bases})), table, GUARDED)
    yield encode(Batch(tuple(AddChain(name, held.chains[name].base) for name in sorted(bases))), table)


def _empty(held: Ruleset, table: str) -> Iterator[list[Message]]:
    bases = [(name, replace(chain.base, drop=False)) for name, chain in sorted(held.chains.items()) if chain.base]
    yield encode(Batch(tuple(AddChain(name, base) for name, base in bases)), table)
    yield encode(Batch(tuple(FlushChain(name) for name, _ in bases)), table)
