"""Scans: one program that tries many doors, each once. Cells of scans are taken out before anything is generalised."""

from __future__ import annotations

from collections import defaultdict

from segctl.model.policy import PortRange
from segctl.suggest.cells import Cell, Shape, Shapes
from segctl.suggest.identify import Kind, Who
from segctl.suggest.pairs import Pair, Values

RARE = 2
"""Bins: what was seen in more is no probe."""
SERVICES = 8
"""Different services that one program of one tag group tried and hardly used."""
CLOSED = 5
"""Tag groups that one program tried by one service where nobody is known to listen."""


def take_scans(shapes: Shapes) -> list[tuple[str, list[Cell]]]:
    """Takes the cells of each scan out of `shapes`; in words what it was, with its cells."""
    told = _listeners_are_told(shapes)
    rare: dict[tuple[Who, Values], list[tuple[Shape, Pair]]] = defaultdict(list)
    for shape, cells in shapes.items():
        for pair, cell in cells.items():
            if cell.bins.bit_count() <= RARE and not cell.owed:
                rare[shape.source, pair[0]].append((shape, pair))
    found = []
    for (who, _), places in sorted(rare.items(), key=lambda item: str(item[0])):
        services = {shape.service for shape, _ in places}
        closed: dict[PortRange, set[Values]] = defaultdict(set)
        for shape, pair in places:
            if told and shape.destination.kind is Kind.HOST:
                closed[shape.service].add(pair[1])
        silent = {service for service, groups in closed.items() if len(groups) >= CLOSED}
        if len(services) >= SERVICES:
            taken, what = places, f"{len(services)} services tried, none of them used again"
        else:
            taken = [(shape, pair) for shape, pair in places if shape.service in silent]
            what = "one service tried in many places, at most of them with nobody listening"
        if taken:
            probes = [shapes[shape].pop(pair) for shape, pair in taken]
            found.append((f"{who.name or 'an address outside'}: {what}", probes))
    for shape in [shape for shape, cells in shapes.items() if not cells]:
        del shapes[shape]
    return found


def _listeners_are_told(shapes: Shapes) -> bool:
    """Whether hosts tell who listens at all: where they do not, an unknown listener says nothing."""
    inside = [(shape, len(cells)) for shape, cells in shapes.items() if shape.destination.kind is not Kind.OUTSIDE]
    known = sum(number for shape, number in inside if shape.destination.kind is not Kind.HOST)
    return 2 * known > sum(number for _, number in inside)
