"""What no suggestion may permit: pairs that a boundary or a `deny` test keeps apart, and what people rejected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segctl.model.policy import ANY_PEER, HOST_WORKLOAD, Network, Policy, Process, Selector, Tags
from segctl.policy.decide import EVERYWHERE, peer_networks
from segctl.suggest.cells import Fleet, Shape
from segctl.suggest.identify import Kind, Who
from segctl.suggest.pairs import Pattern, Values
from segctl.suggest.result import Refused
from segctl.suggest.sites import PEER, is_declared, network_of


class Forbidden:
    """Patterns by shape. A process that belongs to `host` today is meant by what is said of `host`."""

    def __init__(self, policy: Policy, fleet: Fleet, refused: Sequence[Refused]) -> None:
        self._policy, self._fleet, self._refused = policy, fleet, refused

    def of(self, shape: Shape, sites: Iterable[str]) -> tuple[Pattern, ...]:
        """`sites` are those that are an end of the shape."""
        sites = sorted(set(sites))
        found = [
            pattern
            for boundary in self._policy.boundaries
            for pattern in self._patterns(shape, boundary.source, boundary.destination, sites)
        ]
        for test in self._policy.tests:
            if not test.allow and any(port.overlaps(shape.service) for port in test.ports):
                found += self._patterns(shape, test.source, test.destination, sites)
        return tuple(dict.fromkeys([*found, *(p for _, p in self.rejections(shape, sites))]))

    def rejections(self, shape: Shape, sites: Iterable[str]) -> list[tuple[Refused, Pattern]]:
        return [
            (one, pattern)
            for one in self._refused
            if any(port.overlaps(shape.service) for port in one.rule.ports)
            for pattern in self._refused_patterns(one, shape, sorted(set(sites)))
        ]

    def _refused_patterns(self, one: Refused, shape: Shape, sites: Sequence[str]) -> list[Pattern]:
        workloads = {w.name: w for w in (*self._policy.workloads.values(), *one.workloads)}
        peers = {p.name: p.networks for p in (*self._policy.peers.values(), *one.peers)} | {ANY_PEER: EVERYWHERE}
        ends = []
        for selector, who in ((one.rule.source, shape.source), (one.rule.destination, shape.destination)):
            if selector.peer is not None:
                networks = peers.get(selector.peer)
                ends.append(self._sites(who, sites, selector.peer, networks))
                continue
            workload = workloads.get(selector.workload or "")
            named = workload is None or _is(who, workload.name, workload.process)
            wanted = selector.tags.merged(workload.on) if workload else selector.tags
            ends.append([self._pins(wanted)] if named and who.kind is not Kind.OUTSIDE else [])
        within = sum(1 << at for at, key in enumerate(self._fleet.keys) if key in one.rule.within)
        return [Pattern(near, far, within) for near in ends[0] for far in ends[1]]

    def _patterns(self, shape: Shape, source: Selector, destination: Selector, sites: Sequence[str]) -> list[Pattern]:
        near, far = self._end(shape.source, source, sites), self._end(shape.destination, destination, sites)
        return [Pattern(one, other) for one in near for other in far]

    def _end(self, who: Who, selector: Selector, sites: Sequence[str]) -> list[Values]:
        """The pins of a selector where it can mean this program."""
        if selector.peer is not None:
            return self._sites(who, sites, selector.peer, peer_networks(self._policy, selector.peer))
        if who.kind is Kind.OUTSIDE:
            return []
        if selector.workload not in (None, who.name if who.kind is Kind.WORKLOAD else HOST_WORKLOAD):
            return []
        return [self._pins(selector.tags)]

    def _pins(self, tags: Tags) -> Values:
        return self._fleet.values(tags)

    def _sites(self, who: Who, sites: Sequence[str], name: str, networks: Sequence[Network] | None) -> list[Values]:
        if who.kind is not Kind.OUTSIDE or networks is None:
            return []
        return [self._fleet.outside(site) for site in sites if self._meets(site, name, networks)]

    def _meets(self, site: str, name: str, networks: Sequence[Network]) -> bool:
        if not is_declared(site):
            own: tuple[Network, ...] = (network_of(site),)
        else:
            own = peer_networks(self._policy, site.removeprefix(PEER))
        return site == PEER + name or any(a.version == b.version and a.overlaps(b) for a in own for b in networks)


def _is(who: Who, name: str, process: Process) -> bool:
    return (who.kind is Kind.WORKLOAD and who.name == name) or who.process == process
