"""A session that lost its permission: how long after the kernel's commit until both ends are cut off."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy
from segctl.model.policy import PortRange

from bench.enforced import enforced
from bench.policies import CLIENT_UNIT, SERVER, SERVER_UNIT, make_units, server_policy
from bench.rows import Goal, Row
from bench.sessions import Seen, Sessions, lost
from bench.statistic import percentile
from bench.wire import Wire, client_address

_REVOKED, _KEPT = client_address(0), client_address(1)
_REVOKED_PORT, _KEPT_PORT = 8070, 8090
_GRACE, _PATIENCE = 0.02, 0.3
_NEVER_MS = _PATIENCE * 1000


def measure(quick: bool) -> list[Row]:
    """Rows of the time until a TCP and a UDP session are cut, and of the sessions that must not be."""
    rounds = 6 if quick else 100
    make_units((SERVER_UNIT, CLIENT_UNIT))
    # The agent has a core for itself, as far as there are two: the sessions would else wait for it, not for the kernel.
    cores = sorted(os.sched_getaffinity(0))
    with Wire() as wire, enforced(wire.server, SERVER) as (enforcer, kernel):
        allowed = [_policy(n, narrowed=False) for n in range(2 * rounds + 1)]
        enforcer.put(allowed[0])
        with (
            Sessions(wire, SERVER_UNIT, CLIENT_UNIT, _KEPT_PORT, str(_KEPT)) as kept,
            Sessions(wire, SERVER_UNIT, CLIENT_UNIT, _REVOKED_PORT, str(_REVOKED)) as sessions,
        ):
            os.sched_setaffinity(0, cores[:1])
            kept.open()
            tcp: list[float] = []
            udp: list[float] = []
            for number in range(rounds):
                sessions.open()
                time.sleep(_GRACE)
                enforcer.put(_policy(2 * number + 1, narrowed=True))
                committed = kernel.committed
                time.sleep(_PATIENCE)
                for seen in sessions.close():
                    _must_have_run(seen)
                    tcp.append(max(0.0, seen.tcp_end - committed) * 1000 if seen.tcp_end else _NEVER_MS)
                    udp.append(max(0.0, seen.udp_last - committed) * 1000)
                enforcer.put(allowed[2 * number + 2])
            bystanders = kept.close()
    return _rows(tcp, udp, bystanders, rounds)


def _policy(number: int, *, narrowed: bool) -> HostPolicy:
    """Narrowed in turns by one member less in the group and by a rule that is gone."""
    base = server_policy(100)
    ports = (PortRange("tcp", _REVOKED_PORT, _REVOKED_PORT), PortRange("udp", _REVOKED_PORT, _REVOKED_PORT))
    kept = Entry("kept", "kept", tuple(replace(p, low=_KEPT_PORT, high=_KEPT_PORT) for p in ports), True)
    rule = Entry("revoked", "revoked", ports, True)
    by_member = number % 4 == 1
    entries = (kept,) if narrowed and not by_member else (kept, rule)
    members = AddressSet.of([_KEPT] if narrowed and by_member else [_REVOKED, _KEPT])
    groups = (*base.groups, Group("kept", hosts=AddressSet.of([_KEPT])), Group("revoked", hosts=members))
    workloads = tuple(replace(w, ingress=(*w.ingress, *entries)) if w.name == "shop-api" else w for w in base.workloads)
    return replace(base, generation=number + 1, workloads=workloads, groups=tuple(sorted(groups, key=lambda g: g.name)))


def _must_have_run(seen: Seen) -> None:
    if seen.ticks < 5 or not seen.udp_last:
        raise RuntimeError(f"a session was not busy before it was revoked: {seen}")


def _rows(tcp: list[float], udp: list[float], bystanders: tuple[Seen, Seen], rounds: int) -> list[Row]:
    how = (
        f"{rounds} sessions between two processes, a byte each way every ms, revoked in turns by a member that leaves "
        "a group and by a rule that goes; from the return of the kernel's commit, both ends counted"
    )
    server, client = bystanders
    ends = [(server, lost(server, client)), (client, lost(client, server))]
    disturbed = [seen for seen, segments in ends if seen.tcp_end or segments]
    state = "; ".join(f"{'ended' if seen.tcp_end else 'lives'}, {segments} lost" for seen, segments in ends)
    goal = Goal("<=", 5)

    def row(name: str, times: list[float], what: str) -> Row:
        title = f"session revoked after commit, {name}, p95"
        return Row(title, percentile(times, 0.95), "ms", f"{how}; {what}; median {percentile(times, 0.5):.2f} ms", goal)

    return [
        row("TCP", tcp, f"until the socket says that it has ended ({_NEVER_MS:g} ms: never)"),
        row("UDP", udp, "until the last datagram that arrives"),
        Row(
            "session revoked: others that were disturbed",
            len(disturbed),
            "of 2 ends",
            f"a TCP session under another rule, through {rounds} revocations: it ended, or a segment was lost: {state}",
            Goal("==", 0),
        ),
    ]
