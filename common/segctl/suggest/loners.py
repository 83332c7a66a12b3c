"""One host that does what elsewhere whole groups do. Names of processes are told by hosts: whoever takes the name of a
program that others run for good would be permitted all that these are, and would have vouchers for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from segctl.suggest.cells import Cell, Fleet
from segctl.suggest.pairs import Values
from segctl.suggest.rhythm import is_alone


def loners(fleet: Fleet, cells: Iterable[Cell]) -> set[Values]:
    """Of one shape, the groups of sources in which one host alone of several does it, where those in which most do are
    more. Where they are not, one host of each group is how the program works: a leader, a primary."""
    own: dict[Values, list[Cell]] = defaultdict(list)
    for cell in cells:
        own[cell.pair[0]].append(cell)
    alone: set[Values] = set()
    whole = 0
    for group, found in own.items():
        hosts, of_hosts = max(cell.hosts for cell in found), fleet.groups[group]
        sightings = max(cell.bins.bit_count() for cell in found)
        if not any(cell.owed for cell in found) and is_alone(hosts, of_hosts, sightings):
            alone.add(group)
        elif 2 * hosts >= of_hosts > 0:
            whole += 1
    return alone if len(alone) < whole else set()
