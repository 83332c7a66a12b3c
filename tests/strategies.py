"""Hypothesis strategies for policies and fleets, valid by construction.

Everything is drawn from small pools, so that selectors match, networks nest and rules overlap often. The pools hold
words that YAML takes for something else (`no`, `1`, `2027-05-01`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Literal

from hypothesis import strategies as st
from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import (
    ANY_PEER,
    HOST_WORKLOAD,
    Answer,
    Boundary,
    Essentials,
    Mode,
    ModeRule,
    Network,
    Peer,
    Policy,
    PolicyTest,
    PortRange,
    Process,
    ProcessKind,
    Rule,
    Selector,
    Service,
    Tags,
    Workload,
)
from segctl.policy.syntax.grammar import ANY_PORTS, read_service, sorted_networks, sorted_ports

KEYS = ("app", "env", "on", "role")
VALUES = ("Web", "a", "db", "no", "1", "0x1F", "null", "2027-05-01")
LITERALS = (
    "tcp/22",
    "tcp/80",
    "tcp/80-90",
    "udp/53",
    "udp/1-65535",
    "icmp",
    "icmp/echo-request",
    "icmpv6/130",
    "icmp/13",
)
_HIDDEN: tuple[Literal["C"], ...] = ("C",)
_V4, _V6 = int(IPv4Address("10.9.0.0")), int(IPv6Address("fd09::"))

names = st.one_of(
    st.sampled_from(("a", "no", "on", "null", "123", "x.y_z-0", "n" * 40)), st.text("ab1", min_size=1, max_size=4)
)
days = st.dates(date(2026, 1, 1), date(2028, 12, 31))
ends = st.one_of(
    days.map(lambda day: datetime.combine(day, time(), UTC)),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC)).map(
        lambda moment: moment.replace(microsecond=0)
    ),
)
modes = st.sampled_from(Mode)
answers = st.sampled_from((None, *Answer))
processes = st.one_of(
    st.sampled_from(("a.service", "b.service", "db@*.service", "?.scope", "[ab].service", "*.socket", "a-b.slice")).map(
        lambda pattern: Process(ProcessKind.UNIT, pattern)
    ),
    st.sampled_from(("app.slice", "system.slice/a.service", "app/*", "*/b")).map(
        lambda pattern: Process(ProcessKind.CGROUP, pattern)
    ),
    st.sampled_from(("web*", "k8s_web_*_shop", "db.1")).map(lambda pattern: Process(ProcessKind.CONTAINER, pattern)),
    st.sampled_from(("www-data", "33", "_x", "svc$")).map(lambda pattern: Process(ProcessKind.USER, pattern)),
    st.sampled_from(("adm", "4")).map(lambda pattern: Process(ProcessKind.GROUP, pattern)),
    st.sampled_from(("/usr/bin/a", "/opt/a b/c")).map(lambda pattern: Process(ProcessKind.EXECUTABLE, pattern)),
)
texts = (
    st.text(st.characters(codec="utf-8", exclude_categories=_HIDDEN), min_size=1, max_size=40)
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: text.isprintable() and text != "")
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks and single addresses in 10.9.0.0/24 and fd09::/120, and now and then everything."""
    prefix = draw(st.sampled_from((32, 32, 31, 30, 28, 24, 0)))
    host = draw(st.integers(0, 255))
    if draw(st.booleans()):
        return ip_network((_V4 + host, prefix), strict=False)
    return ip_network((_V6 + host, prefix + 96 if prefix else 0), strict=False)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    """Addresses in the range of `networks`."""
    host = draw(st.integers(0, 255))
    return IPv4Address(_V4 + host) if draw(st.booleans()) else IPv6Address(_V6 + host)


@dataclass(frozen=True, slots=True)
class _Declared:
    """What statements may refer to."""

    tags: dict[str, tuple[str, ...]]
    services: dict[str, Service]
    peers: dict[str, Peer]
    workloads: dict[str, Workload]

    def some_tags(self, without: frozenset[str] = frozenset()) -> st.SearchStrategy[Tags]:
        keys = {k: st.sampled_from(v) for k, v in self.tags.items() if k not in without}
        return st.fixed_dictionaries({}, optional=keys).map(Tags.of)

    def selectors(self) -> st.SearchStrategy[Selector]:
        """Of instances."""
        workload = st.sampled_from((None, None, HOST_WORKLOAD, *self.workloads))
        return st.builds(Selector, tags=self.some_tags(), workload=workload)

    def modes(self) -> st.SearchStrategy[ModeRule]:
        return st.builds(ModeRule, self.selectors(), modes, outgoing=answers, incoming=answers)

    def ends(self) -> st.SearchStrategy[tuple[Selector, Selector]]:
        return _ends(self)

    def allowed(self) -> st.SearchStrategy[tuple[tuple[str, ...], tuple[PortRange, ...]]]:
        """The author's words and their ports."""
        word = st.sampled_from((*self.services, *LITERALS, "any"))
        return st.lists(word, min_size=1, max_size=3, unique=True).map(self._resolved)

    def _resolved(self, words: list[str]) -> tuple[tuple[str, ...], tuple[PortRange, ...]]:
        ports = [p for word in words for p in self._ports(word)]
        return tuple(words), sorted_ports(ports)

    def _ports(self, word: str) -> tuple[PortRange, ...]:
        if word == "any":
            return ANY_PORTS
        return self.services[word].ports if word in self.services else _literal(word)


@st.composite
def _ends(draw: st.DrawFn, declared: _Declared) -> tuple[Selector, Selector]:
    source, destination = draw(declared.selectors()), draw(declared.selectors())
    peer = Selector(peer=draw(st.sampled_from((ANY_PEER, *declared.peers))))
    match draw(st.integers(0, 4)):
        case 0:
            return peer, destination
        case 1:
            return source, peer
    return source, destination


def _literal(word: str) -> tuple[PortRange, ...]:
    ports = read_service(word)
    assert isinstance(ports, tuple), ports
    return ports


@st.composite
def _declared(draw: st.DrawFn) -> _Declared:
    values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3, unique=True).map(lambda v: tuple(sorted(v)))
    tags = draw(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=3))
    literals = st.lists(st.sampled_from(LITERALS), min_size=1, max_size=3, unique=True)
    services = {
        name: Service(name, sorted_ports(p for word in words for p in _literal(word)))
        for name, words in draw(st.dictionaries(names, literals, max_size=2)).items()
    }
    peers = {
        name: Peer(name, sorted_networks(given))
        for name, given in draw(
            st.dictionaries(names, st.lists(networks(), min_size=1, max_size=3), max_size=2)
        ).items()
    }
    declared = _Declared(tags, services, peers, {})
    for name in draw(st.lists(names, max_size=3, unique=True)):
        on = draw(declared.some_tags())
        more = draw(declared.some_tags(without=frozenset(dict(on.pairs))))
        declared.workloads[name] = Workload(name, on, draw(processes), more)
    return declared


@st.composite
def _rule(draw: st.DrawFn, name: str, declared: _Declared) -> Rule:
    source, destination = draw(declared.ends())
    has_peer = source.peer is not None or destination.peer is not None
    keys = st.lists(st.sampled_from(sorted(declared.tags)), max_size=2, unique=True)
    within = () if has_peer else tuple(draw(keys))
    words, ports = draw(declared.allowed())
    review, until = draw(st.none() | days), draw(st.none() | ends)
    return Rule(name, source, destination, words, ports, within, draw(texts), draw(texts), review, until)


@st.composite
def _essentials(draw: st.DrawFn, declared: _Declared) -> Essentials:
    some = st.lists(networks(), max_size=2).map(sorted_networks)
    rescue = draw(some)
    ports = draw(declared.allowed())[1] if rescue else Essentials().rescue_ports
    return Essentials(draw(some), draw(some), rescue, ports)


@st.composite
def policies(draw: st.DrawFn, max_rules: int = 4) -> Policy:
    """Whole policies that parse; their tests need not hold."""
    declared = draw(_declared())
    services = declared.allowed()
    boundaries = draw(st.lists(names, max_size=2, unique=True))
    rules = draw(st.lists(names, max_size=max_rules, unique=True))
    return Policy(
        tags=declared.tags,
        services=declared.services,
        peers=declared.peers,
        workloads=declared.workloads,
        modes=tuple(draw(st.lists(declared.modes(), max_size=2))),
        boundaries=tuple(Boundary(name, *draw(declared.ends())) for name in boundaries),
        rules=tuple(draw(_rule(name, declared)) for name in rules),
        tests=tuple(
            PolicyTest(*ends, allow, *allowed)
            for ends, allow, allowed in draw(st.lists(st.tuples(declared.ends(), st.booleans(), services), max_size=2))
        ),
        essentials=draw(_essentials(declared)),
    )


@st.composite
def inventories(draw: st.DrawFn, policy: Policy, max_hosts: int = 4) -> Inventory:
    """Hosts with tags of the policy's vocabulary; every address is held once."""
    tags = _Declared(dict(policy.tags), {}, {}, {}).some_tags()
    taken = draw(st.lists(addresses(), max_size=2 * max_hosts, unique=True))
    hosts: dict[str, Host] = {}
    for index in range(draw(st.integers(1, max_hosts))):
        mine = sorted(taken[index::max_hosts], key=lambda a: (a.version, int(a)))
        hosts[f"h{index}"] = Host(f"h{index}", draw(tags), tuple(mine))
    return Inventory(hosts)


@st.composite
def fleets(draw: st.DrawFn, max_rules: int = 4, max_hosts: int = 4) -> tuple[Policy, Inventory]:
    """A policy and hosts that carry its tags."""
    policy = draw(policies(max_rules))
    return policy, draw(inventories(policy, max_hosts))
