"""Our bits of the conntrack mark: which decision let a flow leave, which let it come in, and whether we saw it begin
(ADR 9)."""

from __future__ import annotations

from dataclasses import dataclass

from segctl_agent.decisions import ESSENTIALS, REFUSED, UNKNOWN, Decision, Decisions
from segctl_agent.identity import Direction
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import ACCEPT, Statement

DEFAULT_MASK = 0xFFFFFFC0
LEAST_BITS = 18
LIVE = "live"
"""The map of the marks that count: each an OUT id or an IN id, the other half zero."""


@dataclass(frozen=True, slots=True)
class MarkLayout:
    """From the top of `mask`: OUT id, IN id, the bits LOOSE and DATAGRAM. Raises ValueError for a mask too small."""

    mask: int = DEFAULT_MASK

    def __post_init__(self) -> None:
        bits = self.mask.bit_count()
        contiguous = 0 < self.mask < 1 << 32 and self.mask >> self._lowest == (1 << bits) - 1
        if not contiguous or bits < LEAST_BITS:
            raise ValueError(
                f"the mark mask {self.mask:#x} must be {LEAST_BITS} to 32 neighbouring bits, such as {DEFAULT_MASK:#x}"
            )

    @property
    def _lowest(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def id_bits(self) -> int:
        return (self.mask.bit_count() - 2) // 2

    @property
    def most(self) -> int:
        """The largest id."""
        return (1 << self.id_bits) - 1

    def shift(self, direction: Direction) -> int:
        top = self._lowest + self.mask.bit_count()
        return top - self.id_bits * (1 if direction == "out" else 2)

    def id_mask(self, direction: Direction) -> int:
        return self.most << self.shift(direction)

    @property
    def out_mask(self) -> int:
        return self.id_mask("out")

    @property
    def in_mask(self) -> int:
        return self.id_mask("in")

    @property
    def loose_bit(self) -> int:
        """A TCP flow that was under way when we first saw it."""
        return 1 << self.shift("in") - 1

    @property
    def datagram_bit(self) -> int:
        """A flow of anything but TCP: the short cut for TCP segments knows it without a look at the protocol."""
        return 1 << self.shift("in") - 2

    @property
    def used(self) -> int:
        """The bits of the mask that are written: an even number of bits leaves one over."""
        return self.out_mask | self.in_mask | self.loose_bit | self.datagram_bit

    def mark(self, direction: Direction, number: int) -> int:
        return number << self.shift(direction)

    def id_of(self, direction: Direction, mark: int) -> int:
        """0: no decision."""
        return (mark & self.id_mask(direction)) >> self.shift(direction)

    def out_id(self, mark: int) -> int:
        return self.id_of("out", mark)

    def in_id(self, mark: int) -> int:
        return self.id_of("in", mark)

    def loose(self, mark: int) -> bool:
        return bool(mark & self.loose_bit)


@dataclass(frozen=True, slots=True)
class Permit:
    """What the mark of a flow looks like to one decision.

    mark: writes that the decision let the flow pass. judged: matches a flow that it let pass. refused: writes an id
    that stands for the workload and direction but lets nothing pass: a denied packet may belong to a connection that
    conntrack has confirmed, whose next packet must find no open door.
    """

    mark: Statement
    judged: Statement
    refused: Statement

    @property
    def accept(self) -> tuple[Statement, Statement]:
        return (self.mark, s.verdict(ACCEPT))


@dataclass(frozen=True, slots=True)
class Marks:
    """The statements about marks, for the decisions that are in force."""

    layout: MarkLayout
    decisions: Decisions

    def permit(self, direction: Direction, workload: str, until: int = 0) -> Permit:
        mask, value = self._bits(Decision(direction, workload, until))
        known = Decision(direction, workload, REFUSED) in self.decisions.ids
        refused = self.refused(direction, workload if known else UNKNOWN)
        return Permit(s.ct_mark_set(mask, value), s.ct_mark_is(mask, value), refused)

    def essentials(self, direction: Direction) -> Permit:
        return self.permit(direction, ESSENTIALS)

    def refused(self, direction: Direction, workload: str) -> Statement:
        """Names whose flow is refused: an id that is never live, for the kernel's own count of denials."""
        return s.ct_mark_set(*self._bits(Decision(direction, workload, REFUSED)))

    def live(self, direction: Direction) -> Statement:
        """The verdict of the flow's decision in this direction; no match for one that does not count any more."""
        return s.ct_mark_verdict(self.layout.id_mask(direction), LIVE)

    def live_tcp(self, *directions: Direction) -> Statement:
        """The same for TCP flows alone. With both directions: for a flow that was judged in one, whichever it is."""
        mask = self.layout.datagram_bit
        for direction in directions:
            mask |= self.layout.id_mask(direction)
        return s.ct_mark_verdict(mask, LIVE)

    def datagram(self) -> Statement:
        """Marks a flow as of no TCP."""
        return s.ct_mark_set(self.layout.datagram_bit, self.layout.datagram_bit)

    def begin_loose(self) -> tuple[Statement, ...]:
        """A flow without any mark, whose segment opens nothing, began before we looked."""
        return (s.ct_mark_is(self.layout.used, 0), s.ct_mark_set(self.layout.loose_bit, self.layout.loose_bit))

    def loose(self) -> Statement:
        return s.ct_mark_is(self.layout.loose_bit, self.layout.loose_bit)

    def older(self) -> tuple[Statement, ...]:
        """A segment of a session older than the table, that opens nothing."""
        return (self.loose(), s.tcp_without_syn())

    def _bits(self, decision: Decision) -> tuple[int, int]:
        layout = self.layout
        return layout.id_mask(decision.direction), layout.mark(decision.direction, self.decisions.ids[decision])
