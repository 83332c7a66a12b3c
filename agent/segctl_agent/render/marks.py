"""Our bits of the conntrack mark: in which epoch a flow was accepted, and whether we saw it begin."""

from __future__ import annotations

from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import ACCEPT, Rule, Statement

MASK = 0xFFF00000
"""The bits that are ours. The other bits are left alone."""
EPOCH_MASK = 0xFFE00000
LOOSE = 0x00100000
"""A TCP flow that was under way when we first saw it: conntrack may have taken its server for its client."""
EPOCHS = range(1, 2048)
_EPOCH_SHIFT = 21


def epoch_mark(epoch: int) -> int:
    """The mark of an epoch. Raises ValueError outside 1 to 2047."""
    if epoch not in EPOCHS:
        raise ValueError(f"the epoch is {epoch}, but must be 1 to {EPOCHS[-1]}: count round to 1")
    return epoch << _EPOCH_SHIFT


def epoch_of_mark(mark: int) -> int:
    return mark >> _EPOCH_SHIFT


def accepted(epoch: int) -> Statement:
    """Marks a flow as accepted in this epoch; LOOSE stays as it is."""
    return s.ct_mark_set(EPOCH_MASK, epoch_mark(epoch))


def judged(epoch: int) -> Statement:
    """A flow that was accepted in this epoch, LOOSE or not."""
    return s.ct_mark_is(EPOCH_MASK, epoch_mark(epoch))


def decided(epoch: int) -> tuple[Rule, ...]:
    """What needs no further look: TCP sessions of this epoch; replies, whose first direction the other hook judges;
    ICMP errors of such flows.

    conntrack remembers a flow longer than its socket lives, and another process may take the port: its datagram, or its
    SYN, would pass by a decision about someone else. So these walk the policy each time.

    A segment that opens nothing, of a flow that nobody judged, is of a session older than the table. A SYN on such a
    flow would open a new connection under the cover of the old one: it walks the policy.
    """
    related = s.ct_state("related")
    return (
        Rule.of(judged(epoch), s.tcp_without_syn(), s.verdict(ACCEPT)),
        Rule.of(s.ct_state("established", "related"), s.ct_reply(), s.verdict(ACCEPT)),
        Rule.of(s.ct_mark_is(MASK, 0), s.tcp_without_syn(), s.ct_mark_set(LOOSE, LOOSE)),
        Rule.of(related, s.protocol("icmp"), s.verdict(ACCEPT)),
        Rule.of(related, s.protocol("icmpv6"), s.verdict(ACCEPT)),
    )


def loose() -> tuple[Statement, ...]:
    """A segment that belongs to a session older than the table, and opens nothing."""
    return (s.ct_mark_is(LOOSE, LOOSE), s.tcp_without_syn())
