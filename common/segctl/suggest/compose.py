"""From habits to rules as a person would write them: ends, names, declarations, evidence."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from segctl.model.policy import (
    ANY_PEER,
    HOST_WORKLOAD,
    Network,
    Peer,
    Policy,
    PortRange,
    Process,
    Rule,
    Selector,
    Service,
    Tags,
    Workload,
)
from segctl.policy.checks.claims import find_rival_workloads
from segctl.policy.networks import collapse
from segctl.policy.syntax.grammar import MAX_NAME, sorted_networks
from segctl.suggest.cells import Fleet
from segctl.suggest.drafts import Draft
from segctl.suggest.identify import LOGINS, Kind, Who
from segctl.suggest.observed import Observation, Window
from segctl.suggest.pairs import Values
from segctl.suggest.result import Evidence, Rhythm, Suggestion
from segctl.suggest.rhythm import PERIODIC
from segctl.suggest.services import ServiceNames
from segctl.suggest.sites import ANY, PEER, is_declared, network_of
from segctl.suggest.weighing import Weigher

NOBODY = "CHANGE-ME"
NEW = 0.25
"""Of the window: what began so long after its hosts were first seen is new."""


class Composer:
    """Writes rules for one policy and fleet. `owner` is for rules whose destination has no owner yet."""

    def __init__(self, policy: Policy, fleet: Fleet, window: Window, owner: str) -> None:
        self._policy, self._fleet, self._window = policy, fleet, window
        self._owner = owner or NOBODY
        self._weigher = Weigher(policy, fleet, window)

    def suggestions(self, drafts: Sequence[Draft]) -> tuple[Suggestion, ...]:
        workloads = self._workloads(drafts)
        listeners: dict[PortRange, set[str]] = defaultdict(set)
        for draft in drafts:
            for port in draft.ports:
                listeners[port].add(_slug(self._word(draft.destination, workloads, draft, far=True)))
        names = ServiceNames(self._policy, {port: frozenset(words) for port, words in listeners.items()})
        written = [self._write(draft, workloads, names) for draft in drafts]
        return _named(written, {rule.name for rule in self._policy.rules})

    def _workloads(self, drafts: Sequence[Draft]) -> dict[Process, Workload]:
        """One for each process, on the hosts that have in common what all that were seen have, but for the tags that a
        rule compares: there it may come to hosts with others."""
        groups: dict[Process, list[Values]] = defaultdict(list)
        compared: dict[Process, int] = defaultdict(int)
        for draft in drafts:
            for who, far in ((draft.source, False), (draft.destination, True)):
                if who.process is not None:
                    groups[who.process] += draft.groups(far)
                    compared[who.process] |= draft.pattern.within
        made: dict[Process, Workload] = {}
        taken = {*self._policy.workloads, HOST_WORKLOAD}
        for process in sorted(groups):
            common = _common(groups[process])
            open_ = compared[process]
            on = self._fleet.tags(tuple(None if open_ >> at & 1 else v for at, v in enumerate(common)))
            workload = Workload(_free(_base(process), taken, str(process)), on, process)
            made[process] = self._after_rivals(workload, taken)
            taken.add(made[process].name)
        return made

    def _after_rivals(self, workload: Workload, taken: Iterable[str]) -> Workload:
        """Of workloads that may claim one process the first by name gets it: those that are there must go on to."""
        policy = Policy(workloads={**self._policy.workloads, workload.name: workload})
        if not any(workload.name in finding.message for finding in find_rival_workloads(policy)):
            return workload
        last = max([*self._policy.workloads, workload.name])
        return replace(workload, name=_free(f"{last[: MAX_NAME - 6]}-others", taken, str(workload.process)))

    def _write(self, draft: Draft, workloads: Mapping[Process, Workload], names: ServiceNames) -> Suggestion:
        used = [workloads[who.process] for who in (draft.source, draft.destination) if who.process is not None]
        peers = self._peer(draft)
        source = self._selector(draft.source, draft.pattern.source, workloads, peers)
        destination = self._selector(draft.destination, draft.pattern.destination, workloads, peers)
        within = tuple(key for at, key in enumerate(self._fleet.keys) if draft.pattern.within >> at & 1)
        allow = tuple(names.name(port) for port in draft.ports)
        services = tuple(
            Service(name, (port,)) for name, port in zip(allow, draft.ports, strict=True) if names.is_new(name, port)
        )
        evidence, confidence = self._weigher.evidence(draft)
        words = (
            self._word(draft.source, workloads, draft, far=False),
            self._word(draft.destination, workloads, draft, far=True),
        )
        name = _slug(f"{words[0]}-to-{words[1]}")
        why = f"seen {self._span(evidence)}: {evidence.rhythm.value}"
        rule = Rule(name, source, destination, allow, draft.ports, within, self._owner_of(draft), why)
        return Suggestion(
            identity(rule, [*used, *self._policy.workloads.values()], peers),
            rule,
            confidence,
            evidence,
            self._weigher.excess(draft, workloads),
            _observations(draft),
            tuple(dict.fromkeys(w for w in used if w.name not in self._policy.workloads)),
            services,
            tuple(p for p in peers if p.name not in (*self._policy.peers, ANY_PEER)),
            self._vocabulary(rule, used),
            tuple(self._remarks(draft, evidence)),
        )

    def _selector(
        self, who: Who, pins: Values, workloads: Mapping[Process, Workload], peers: Sequence[Peer]
    ) -> Selector:
        if who.kind is Kind.OUTSIDE:
            return Selector(peer=peers[0].name)
        tags = self._fleet.tags(pins)
        if who.kind is Kind.HOST:
            return Selector(tags, HOST_WORKLOAD)
        workload = workloads[who.process] if who.process else self._policy.workloads[who.name]
        implied = workload.on.merged(workload.tags)
        return Selector(Tags.of(pair for pair in tags.pairs if pair not in implied.pairs), workload.name)

    def _peer(self, draft: Draft) -> tuple[Peer, ...]:
        if not draft.peer:
            return ()
        if draft.peer == (ANY,):
            return (Peer(ANY_PEER, ()),)
        if is_declared(draft.peer[0]):
            return (self._policy.peers[draft.peer[0].removeprefix(PEER)],)
        networks: tuple[Network, ...] = sorted_networks(collapse(network_of(site) for site in draft.peer))
        inside = draft.destination if draft.source.kind is Kind.OUTSIDE else draft.source
        word = inside.name if inside.process is None else _base(inside.process)
        what = "clients" if draft.source.kind is Kind.OUTSIDE else "servers"
        digest = _digest(",".join(map(str, networks)))[:4]
        return (Peer(_slug(f"{word[: MAX_NAME - 14]}-{what}-{digest}"), networks),)

    def _word(self, who: Who, workloads: Mapping[Process, Workload], draft: Draft, *, far: bool) -> str:
        """What the end is called in names: the program, and the values that set it apart."""
        if who.kind is Kind.OUTSIDE:
            return self._peer(draft)[0].name
        pins = draft.pattern.destination if far else draft.pattern.source
        values = [v for v in pins if v is not None]
        if who.kind is Kind.HOST:
            return "-".join(values) or HOST_WORKLOAD
        workload = workloads[who.process] if who.process else self._policy.workloads[who.name]
        implied = {v for _, v in (*workload.on.pairs, *workload.tags.pairs)}
        return "-".join([*(v for v in values if v not in implied), workload.name])

    def _owner_of(self, draft: Draft) -> str:
        """Who owns most rules to the same destination by its workload or its tags, as far as the policy tells."""
        tags = set(self._fleet.tags(_common(list(draft.groups(True)))).pairs)
        owners: Counter[str] = Counter()
        for rule in self._policy.rules:
            to = rule.destination
            named = self._policy.workloads.get(to.workload or "")
            wanted = {*to.tags.pairs, *(named.on.pairs if named else ())}
            if rule.owner and to.peer is None and wanted and wanted <= tags:
                owners[rule.owner] += 1
        return min(owners, key=lambda owner: (-owners[owner], owner)) if owners else self._owner

    def _vocabulary(self, rule: Rule, workloads: Iterable[Workload]) -> tuple[tuple[str, str], ...]:
        """Tags that the policy has no words for yet. A key that is only compared gets all its values."""
        pairs = {*rule.source.tags.pairs, *rule.destination.tags.pairs, *(p for w in workloads for p in w.on.pairs)}
        for key in rule.within:
            if key not in self._policy.tags:
                at = self._fleet.keys.index(key)
                pairs |= {(key, v) for group in self._fleet.groups if (v := group[at]) is not None}
        return tuple(sorted((k, v) for k, v in pairs if v not in self._policy.tags.get(k, ())))

    def _times(self, evidence: Evidence) -> str:
        unit = "on {} day" if self._window.by_day else "in {} hour"
        return f"{unit.format(evidence.sightings)}{'' if evidence.sightings == 1 else 's'}"

    def _span(self, evidence: Evidence) -> str:
        first, last = (datetime.fromtimestamp(at / 1e6, UTC).date() for at in (evidence.first_us, evidence.last_us))
        one, several = ("host", "hosts") if evidence.of_hosts else ("address", "addresses")
        hosts = f"{evidence.hosts} {one if evidence.hosts == 1 else several}"
        return f"{first} to {last} {self._times(evidence)} from {hosts}"

    def _remarks(self, draft: Draft, evidence: Evidence) -> Iterator[str]:
        for who, word in ((draft.source, "from"), (draft.destination, "to")):
            if who.kind is Kind.HOST and any(port.protocol in ("tcp", "udp") for port in draft.ports):
                yield f"{word} every process that no workload names: nobody could tell which one it was"
            if who.process == LOGINS:
                yield f"{word} everybody who is logged in there"
        if evidence.rhythm in PERIODIC:
            yield f"runs {evidence.rhythm.value}: seen {self._times(evidence)}"
        late = min(habit.late for habit in draft.habits)
        if evidence.rhythm is Rhythm.STEADY and late >= NEW * self._window.bins:
            unit = "days" if self._window.by_day else "hours"
            yield f"new: its hosts were there for {late} {unit} before it began; ask who began it"
        if draft.peer == (ANY,):
            yield "addresses everywhere were seen: it opens the service to every address that no host holds"


def _named(written: Sequence[Suggestion], taken: set[str]) -> tuple[Suggestion, ...]:
    """Names are of what the rule says; where two would be called alike, or a rule is, the id tells them apart."""
    counts = Counter(one.rule.name for one in written)
    found = []
    for one in written:
        name = one.rule.name
        if counts[name] > 1 or name in taken:
            name = f"{name[: MAX_NAME - 7].rstrip('-')}-{one.id[:6]}"
        found.append(replace(one, rule=replace(one.rule, name=name)))
    return tuple(sorted(found, key=lambda one: one.rule.name))


def identity(rule: Rule, workloads: Iterable[Workload], peers: Iterable[Peer]) -> str:
    """Twelve hexadecimal digits of what the rule permits; names, owner and reason have no part in them."""
    said = [
        _end(rule.source, workloads, peers),
        _end(rule.destination, workloads, peers),
        ",".join(rule.within),
        ",".join(map(str, rule.ports)),
    ]
    return _digest("\n".join(said))[:12]


def _end(selector: Selector, workloads: Iterable[Workload], peers: Iterable[Peer]) -> str:
    if selector.peer is not None:
        return "peer " + ",".join(str(n) for peer in peers for n in peer.networks)
    workload = next((w for w in workloads if w.name == selector.workload), None)
    who = f"{workload.process} on {workload.on}" if workload else selector.workload
    return f"{who} {selector.tags}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _observations(draft: Draft) -> tuple[Observation, ...]:
    every = [one for habit in draft.habits for cell in habit.cells for one in cell.observations]
    return tuple(sorted(every, key=lambda one: (-one.flows, str(one))))


def _common(groups: Sequence[Values]) -> Values:
    """The values that all of them have."""
    first, *rest = groups
    return tuple(v if all(group[at] == v for group in rest) else None for at, v in enumerate(first))


def _base(process: Process) -> str:
    if process == LOGINS:
        return "logins"
    return _slug(re.sub(r"\.[a-z]+$", "", process.pattern))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME].strip("-") or "process"


def _free(wanted: str, taken: Iterable[str], content: str) -> str:
    return f"{wanted[: MAX_NAME - 5].rstrip('-')}-{_digest(content)[:4]}" if wanted in taken else wanted
