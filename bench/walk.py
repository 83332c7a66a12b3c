"""A walk through host policies that differ in everything except what the probes of `native/probes.c` rely on.

In every policy SERVER_UNIT accepts ports 8080 and 8082 from the probed clients and connects to port 9090 of CLIENT; no
policy lets it accept 8081 from them or connect to 9091 of CLIENT, and none lets OTHER_UNIT accept anything from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_network
from random import Random

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, Network, PortRange, Process, ProcessKind

from bench.policies import CLIENT, OTHER_UNIT, SERVER_UNIT
from bench.wire import client_address

PROBED_CLIENTS = 64
_STRANGERS = tuple(IPv4Address("172.20.0.1") + i for i in range(600))
_JOINERS = 100
"""Strangers that only come one at a time: there is always one left to come."""
STRANGERS = "strangers"
_ALLOWED_IN = (PortRange("tcp", 8080, 8080), PortRange("tcp", 8082, 8082))
_EVERYTHING = (PortRange("tcp", 8000, 9999), PortRange("udp", 1, 65535))


@dataclass
class _State:
    """What varies from one policy to the next."""

    strangers: set[IPv4Address] = field(default_factory=lambda: set(_STRANGERS[:50]))
    workloads: set[str] = field(default_factory=set)
    group_names: dict[str, str] = field(default_factory=lambda: {"web": "web", "backends": "backends"})
    stranger_ports: tuple[PortRange, ...] = ()
    other_named: bool = False
    peer: tuple[Network, ...] = ()
    rescue: int = 0
    split: bool = False
    modes: dict[str, Mode] = field(default_factory=dict)


class Walk:
    """`policy` is where it stands. Repeats by its seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._state = _State()
        self._generation = 1
        self.policy = _policy(self._state, 1)

    def step(self, *steps: Step) -> HostPolicy:
        """One change further: one of `steps`, of all STEPS when none is named."""
        self._random.choice(steps or STEPS)(self._state, self._random)
        return self._next()

    def join(self) -> tuple[HostPolicy, IPv4Address]:
        """One address more in the group STRANGERS."""
        address = self._random.choice(sorted(set(_STRANGERS) - self._state.strangers))
        self._state.strangers.add(address)
        return self._next(), address

    def leave(self) -> tuple[HostPolicy, IPv4Address]:
        """One address less in the group STRANGERS."""
        address = self._random.choice(sorted(self._state.strangers))
        self._state.strangers.remove(address)
        return self._next(), address

    def _next(self) -> HostPolicy:
        self._generation += 1
        self.policy = _policy(self._state, self._generation)
        return self.policy


def policies(seed: int) -> Iterator[HostPolicy]:
    """Without end, each one change away from the one before."""
    walk = Walk(seed)
    while True:
        yield walk.policy
        walk.step()


def _add_hosts(state: _State, random: Random) -> None:
    state.strangers.update(random.sample(_STRANGERS[:-_JOINERS], 40))


def _remove_hosts(state: _State, random: Random) -> None:
    gone = random.sample(sorted(state.strangers), len(state.strangers) // 2)
    state.strangers.difference_update(gone)


def _add_workload(state: _State, random: Random) -> None:
    """Names from `a...` to `z...`: workloads are numbered by name, so the probed one gets another number."""
    state.workloads.add(f"{random.choice('amtz')}-job{random.randrange(8)}")


def _remove_workload(state: _State, random: Random) -> None:
    if state.workloads:
        state.workloads.remove(random.choice(sorted(state.workloads)))


def _rename_group(state: _State, random: Random) -> None:
    key = random.choice(("web", "backends"))
    state.group_names[key] = f"{key}-{random.randrange(4)}"


def _swap(state: _State, random: Random) -> None:
    """The two groups trade names, the two allowed ports are one entry or two, the other unit is named or is not."""
    state.group_names = {"web": state.group_names["backends"], "backends": state.group_names["web"]}
    state.split = random.random() < 0.5
    state.other_named = not state.other_named


def _strangers_ports(state: _State, random: Random) -> None:
    """Strangers may do all that the probes may not, at times."""
    state.stranger_ports = random.choice(((), (PortRange("tcp", 8081, 8081),), _EVERYTHING))


def _narrow_ports(state: _State, random: Random) -> None:
    state.stranger_ports = () if state.stranger_ports != _EVERYTHING else (PortRange("tcp", 8081, 8081),)


def _widen_ports(state: _State, random: Random) -> None:
    state.stranger_ports = _EVERYTHING


def _mode(state: _State, random: Random) -> None:
    """Of a workload beside the probed ones: of theirs, one enforces whatever happens."""
    if not state.workloads:
        _add_workload(state, random)
    state.modes[random.choice(sorted(state.workloads))] = random.choice(list(Mode))


def _peer(state: _State, random: Random) -> None:
    state.peer = tuple(ip_network(f"198.51.{100 + i}.0/25") for i in range(random.randrange(5)))
    state.rescue = random.randrange(3)


Step = Callable[[_State, Random], None]
STEPS: tuple[Step, ...] = (
    _add_hosts,
    _remove_hosts,
    _add_workload,
    _remove_workload,
    _rename_group,
    _swap,
    _strangers_ports,
    _peer,
    _mode,
)
NARROW: tuple[Step, ...] = (_remove_hosts, _narrow_ports)
WIDEN: tuple[Step, ...] = (_add_hosts, _widen_ports)
MODE: tuple[Step, ...] = (_mode,)


def _policy(state: _State, generation: int) -> HostPolicy:
    web, backends = state.group_names["web"], state.group_names["backends"]
    if web == backends:
        backends += "-x"
    groups = [
        Group(web, hosts=AddressSet.of(client_address(i) for i in range(PROBED_CLIENTS))),
        Group(backends, hosts=AddressSet.of([CLIENT])),
        Group(STRANGERS, hosts=AddressSet.of(state.strangers)),
    ]
    if state.peer:
        groups.append(Group("peer", state.peer))
    strangers = (Entry("strangers", STRANGERS, state.stranger_ports, True),) if state.stranger_ports else ()
    peer = (Entry("peer-in", "peer", (PortRange("tcp", 8000, 8100),), False),) if state.peer else ()
    return HostPolicy(
        host="bench",
        generation=generation,
        policy_digest="0" * 64,
        workloads=_workloads(state, web, backends, strangers, peer),
        groups=tuple(sorted(groups, key=lambda g: g.name)),
        managed=AddressSet.of(IPv4Address("198.51.100.3") + 128 * i for i in range(len(state.peer))),
        essentials=Essentials(rescue=tuple(IPv4Network(IPv4Address("172.21.0.1") + i) for i in range(state.rescue))),
    )


def _workloads(
    state: _State, web: str, backends: str, strangers: tuple[Entry, ...], peer: tuple[Entry, ...]
) -> tuple[LocalWorkload, ...]:
    def unit(name: str) -> Process:
        return Process(ProcessKind.UNIT, name)

    parts = [_ALLOWED_IN[:1], _ALLOWED_IN[1:]] if state.split else [_ALLOWED_IN]
    ingress = tuple(Entry(f"web-to-api-{i}", web, ports, True) for i, ports in enumerate(parts))
    egress = (Entry("api-out", backends, (PortRange("tcp", 9090, 9090),), True),)
    found = [
        LocalWorkload(
            "shop-api", unit(SERVER_UNIT), Mode.ENFORCE, (*ingress, *strangers, *peer), (*egress, *strangers)
        ),
        LocalWorkload("host", None, Mode.ENFORCE, strangers, strangers),
    ]
    found += [
        LocalWorkload(n, unit(f"{n}.service"), state.modes.get(n, Mode.ENFORCE), strangers, peer)
        for n in state.workloads
    ]
    if state.other_named:
        found.append(LocalWorkload("other", unit(OTHER_UNIT), Mode.ENFORCE, strangers, ()))
    return tuple(sorted(found, key=lambda w: w.name))
