"""Scans: one program that tries many doors, each once, or many behind which nobody listens. Cells of scans are taken
out before anything is generalised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

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


Place = tuple[Shape, Pair]
By = dict[tuple[Who, Values], list[Place]]
"""Cells by the program that opened the connections, and its tag group."""


def take_scans(shapes: Shapes, settled: Mapping[Shape, Collection[Pair]]) -> list[tuple[str, list[Cell]]]:
    """Takes the cells of each scan out of `shapes`; in words what it was, with its cells. `settled` are pairs that the
    policy permits: they tell who listens, too."""
    telling = _telling(shapes) | _telling(settled)
    found = _taken(shapes, _unknown(shapes), lambda places: _many_doors(places, telling))
    found += _taken(shapes, _rare(shapes), lambda places: _tried_once(places, telling))
    for shape in [shape for shape, cells in shapes.items() if not cells]:
        del shapes[shape]
    return found


def _taken(
    shapes: Shapes, by: By, scan: Callable[[Sequence[Place]], tuple[Sequence[Place], str]]
) -> list[tuple[str, list[Cell]]]:
    found = []
    for (who, _), places in sorted(by.items(), key=lambda item: str(item[0])):
        probes, what = scan(places)
        if probes:
            cells = [shapes[shape].pop(pair) for shape, pair in probes]
            found.append((f"{who.name or 'an address outside'}: {what}", cells))
    return found


def _unknown(shapes: Shapes) -> By:
    """However often, and at whatever intervals."""
    by: By = defaultdict(list)
    for shape, cells in shapes.items():
        if shape.destination.kind is Kind.HOST and shape.service.protocol in ("tcp", "udp"):
            for pair, cell in cells.items():
                if not cell.owed:
                    by[shape.source, pair[0]].append((shape, pair))
    return by


def _rare(shapes: Shapes) -> By:
    by: By = defaultdict(list)
    for shape, cells in shapes.items():
        for pair, cell in cells.items():
            if cell.bins.bit_count() <= RARE and not cell.owed:
                by[shape.source, pair[0]].append((shape, pair))
    return by


def _many_doors(places: Sequence[Place], telling: set[Values]) -> tuple[Sequence[Place], str]:
    services = {shape.service for shape, pair in places if _is_closed(shape, pair, telling)}
    return (places if len(services) >= SERVICES else ()), f"{len(services)} services tried where nobody listens"


def _tried_once(places: Sequence[Place], telling: set[Values]) -> tuple[Sequence[Place], str]:
    services = {shape.service for shape, _ in places}
    if len(services) >= SERVICES:
        return places, f"{len(services)} services tried, none of them used again"
    closed: dict[PortRange, set[Values]] = defaultdict(set)
    for shape, pair in places:
        if _is_closed(shape, pair, telling):
            closed[shape.service].add(pair[1])
    silent = {service for service, groups in closed.items() if len(groups) >= CLOSED}
    taken = [(shape, pair) for shape, pair in places if shape.service in silent]
    return taken, "one service tried in many places, at most of them with nobody listening"


def _is_closed(shape: Shape, pair: Pair, telling: set[Values]) -> bool:
    return shape.destination.kind is Kind.HOST and pair[1] in telling


def _telling(shapes: Mapping[Shape, Collection[Pair]]) -> set[Values]:
    """The groups whose hosts tell who listens: elsewhere an unknown listener says nothing. By group, for whoever scans
    adds as many unknown ones as it likes."""
    unknown = (Kind.HOST, Kind.OUTSIDE)
    return {pair[1] for shape, pairs in shapes.items() if shape.destination.kind not in unknown for pair in pairs}
