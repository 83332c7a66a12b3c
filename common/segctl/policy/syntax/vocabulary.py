"""What a policy declares: tags, services, peers and workloads, gathered from all of its files.

A declaration with a mistake still counts as declared, so that the mistake is reported once and not at every use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segctl.model.findings import Position
from segctl.model.policy import (
    ANY_PEER,
    HOST_WORKLOAD,
    Network,
    Peer,
    PortRange,
    Process,
    ProcessKind,
    Service,
    Tags,
    Workload,
)
from segctl.policy.syntax import grammar
from segctl.policy.syntax.fields import read_fields, read_scalar, read_table, read_words
from segctl.policy.syntax.log import FindingLog, Problem
from segctl.policy.syntax.suggest import quoted
from segctl.policy.syntax.yamltree import Node, Scalar, Table

SELECTOR_KEYS = ("workload", "peer", "process")
"""Keys of selectors that are no tags; so no tag can have these names."""
RESERVED: Mapping[str, frozenset[str]] = {
    "tag": frozenset(SELECTOR_KEYS),
    "service": grammar.RESERVED_SERVICES,
    "peer": frozenset({ANY_PEER}),
    "workload": frozenset({HOST_WORKLOAD}),
}


class Declarations:
    """The names of one kind, each with the place where it was declared."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.places: dict[str, Position] = {}

    def add(self, name: Scalar, log: FindingLog) -> bool:
        """False when the name cannot be used: malformed, reserved or taken."""
        problem = grammar.check_name(name.text)
        if problem:
            log.error(name.where, problem.code, f"{self.kind} {problem.message}", problem.hint)
            self.places.setdefault(name.text, name.where)
            return False
        if name.text in RESERVED.get(self.kind, ()):
            message = f"{self.kind} {name.text} is reserved: it has a meaning of its own"
            log.error(name.where, "reserved-name", message, "choose another name")
            return False
        if name.text in self.places:
            message = f"{self.kind} {name.text} is declared twice, first at {self.places[name.text]}"
            log.error(name.where, "duplicate-name", message, "remove or rename one")
            return False
        self.places[name.text] = name.where
        return True


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every declared name. `tags` maps a key to its values; None stands for values that could not be read."""

    tags: dict[str, set[str] | None] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    service_names: Declarations = field(default_factory=lambda: Declarations("service"))
    peer_names: Declarations = field(default_factory=lambda: Declarations("peer"))
    workload_names: Declarations = field(default_factory=lambda: Declarations("workload"))

    def read_tags(self, node: Node, log: FindingLog) -> None:
        """`role: [web, db]`; the same key in several files adds its values."""
        table = _declaring(node, "tags", log)
        for key, value in table.entries if table else ():
            if key.text not in self.tags and not Declarations("tag").add(key, log):
                self.tags[key.text] = None
                continue
            words = read_words(value, f"tag {key.text}", log)
            known = self.tags.setdefault(key.text, set())
            if words is None or known is None:
                self.tags[key.text] = None
                continue
            for word in words:
                problem = grammar.check_value(word.text)
                if problem:
                    log.problem(word.where, problem)
                known.add(word.text)

    def read_services(self, node: Node, log: FindingLog) -> None:
        table = _declaring(node, "services", log)
        for name, value in table.entries if table else ():
            if not self.service_names.add(name, log):
                continue
            words = read_words(value, f"service {name.text}", log) or ()
            ports = [p for w in words for p in read_literal(w, log)]
            self.services[name.text] = Service(name.text, grammar.sorted_ports(ports), name.where)

    def read_peers(self, node: Node, log: FindingLog) -> None:
        table = _declaring(node, "peers", log)
        for name, value in table.entries if table else ():
            if not self.peer_names.add(name, log):
                continue
            networks = read_networks(value, f"peer {name.text}", log)
            self.peers[name.text] = Peer(name.text, grammar.sorted_networks(networks), name.where)

    def read_workloads(self, node: Node, log: FindingLog) -> None:
        """Needs every file's tags."""
        table = _declaring(node, "workloads", log)
        for name, value in table.entries if table else ():
            if not self.workload_names.add(name, log):
                continue
            what = f"workload {name.text}"
            fields = read_fields(value, what, ("on", "process", "tags"), ("on", "process"), log) or {}
            on = self._read_plain_tags(fields["on"], f"on of {what}", log) if "on" in fields else Tags()
            extra = self._read_plain_tags(fields["tags"], f"tags of {what}", log) if "tags" in fields else Tags()
            if on.conflicts(extra):
                message = f"{what} is on {on} but carries {extra}"
                log.error(name.where, "tag-conflict", message, "remove the key from tags, or give it one value")
            process = _read_process(fields["process"], what, log) if "process" in fields else None
            if process:
                self.workloads[name.text] = Workload(name.text, on, process, extra, name.where)

    def read_tag(self, key: Scalar, node: Node, log: FindingLog) -> tuple[str, str] | None:
        """One `key: value` of a selector, both declared."""
        value = read_scalar(node, f"the value of {quoted(key.text)}", log)
        if key.text not in self.tags:
            mend = log.mend(key.text, (*self.tags, "workload", "peer"), "declare it under tags")
            log.error(key.where, "unknown-tag", f"tag {quoted(key.text)} is not declared", mend)
            return None
        if value is None:
            return None
        values = self.tags[key.text]
        if values is not None and value.text not in values:
            mend = log.mend(value.text, values, f"declare it under tags, {key.text}")
            message = f"{quoted(value.text)} is not a declared value of tag {key.text}"
            log.error(value.where, "unknown-value", message, mend)
            return None
        return key.text, value.text

    def _read_plain_tags(self, node: Node, what: str, log: FindingLog) -> Tags:
        table = read_table(node, what, log)
        pairs: dict[str, str] = {}
        for key, value in table.entries if table else ():
            if key.text in SELECTOR_KEYS:
                log.error(key.where, "bad-selector", f"{what} has tags only, not {key.text}", f"remove {key.text}")
                continue
            pair = self.read_tag(key, value, log)
            if pair:
                pairs[pair[0]] = pair[1]
        return Tags.of(pairs)

    def read_allowed(self, node: Node, what: str, log: FindingLog) -> tuple[tuple[str, ...], tuple[PortRange, ...]]:
        """The services of a rule or test: the author's words, and the ports they stand for."""
        words = read_words(node, what, log) or ()
        ports: list[PortRange] = []
        for word in words:
            if word.text == grammar.ANY_SERVICE:
                ports.extend(grammar.ANY_PORTS)
            elif word.text in self.services:
                ports.extend(self.services[word.text].ports)
            elif "/" in word.text or word.text in grammar.RESERVED_SERVICES:
                ports.extend(read_literal(word, log))
            elif word.text not in self.service_names.places:
                mend = _port_mend(word.text) or log.mend(
                    word.text, (*self.services, "any", "icmp"), "declare it under services"
                )
                log.error(word.where, "unknown-service", f"service {quoted(word.text)} is not declared", mend)
        return tuple(w.text for w in words), grammar.sorted_ports(ports)


_UNKNOWN = {
    "tags": ("unknown-tag", "unknown-value"),
    "services": ("unknown-service",),
    "peers": ("unknown-peer",),
    "workloads": ("unknown-workload",),
}
"""What a section that cannot be read would bring up at every use of what it declares."""


def silence_unknown(log: FindingLog, *sections: str) -> None:
    """Some declarations of these sections (or, without any named, of all) could not be read."""
    for section in sections or _UNKNOWN:
        log.silence(*_UNKNOWN[section])


def _port_mend(text: str) -> str:
    """For a bare port or range, which lacks its protocol."""
    literals = [
        literal for literal in (f"tcp/{text}", f"udp/{text}") if isinstance(grammar.read_service(literal), tuple)
    ]
    return f"write {' or '.join(literals)}" if literals else ""


def _declaring(node: Node, section: str, log: FindingLog) -> Table | None:
    table = read_table(node, section, log)
    if table is None:
        silence_unknown(log, section)
    return table


def read_literal(word: Scalar, log: FindingLog) -> tuple[PortRange, ...]:
    ports = grammar.read_service(word.text)
    if isinstance(ports, Problem):
        log.problem(word.where, ports)
        return ()
    return ports


def read_networks(node: Node, what: str, log: FindingLog, *, may_be_empty: bool = False) -> list[Network]:
    networks: list[Network] = []
    for word in read_words(node, what, log, may_be_empty=may_be_empty) or ():
        network = grammar.read_network(word.text)
        if isinstance(network, Problem):
            log.problem(word.where, network)
        else:
            networks.append(network)
    return networks


def _read_process(node: Node, what: str, log: FindingLog) -> Process | None:
    kinds = tuple(k.value for k in ProcessKind)
    fields = read_fields(node, f"process of {what}", kinds, (), log)
    if fields is None:
        return None
    if len(fields) != 1:
        message = f"process of {what} has {len(fields)} of {', '.join(kinds)}"
        log.error(node.where, "bad-process", message, "give exactly one: two kinds are two workloads")
        return None
    ((kind, value),) = fields.items()
    pattern = read_scalar(value, f"the {kind} of {what}", log)
    if pattern is None:
        return None
    process = grammar.read_process(ProcessKind(kind), pattern.text)
    if isinstance(process, Problem):
        log.problem(pattern.where, process)
        return None
    return process
