"""The whole path of a session's end: real rules, marks and ids; a policy that narrows; a session that sends nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from segctl import wire
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.conversation import ImpactAsked
from segctl_agent.denials.attribute import Attributor
from segctl_agent.enforcer import Enforcer
from segctl_agent.flows.decisions import DecisionId
from segctl_agent.flows.live import ids_in_use
from segctl_agent.flows.service import FlowService
from segctl_agent.nft.kernel import NetlinkKernel

from tests.netns.spaces import CGROUPS
from tests.netns.twohosts import HERE, HERE6, THERE, THERE6, TwoHosts, server, session, talks
from tests.patience import patience
from tests.unit.segctl_agent.flows.rows import entry, policy, tcp

pytestmark = pytest.mark.kernel

UNIT = "system.slice/shop.service"
WIDE = LocalWorkload(
    "shop",
    Process(ProcessKind.UNIT, "shop.service"),
    Mode.ENFORCE,
    ingress=(entry("cut-in", "there", tcp(443)), entry("kept-in", "there", tcp(444))),
    egress=(entry("cut-out", "there", tcp(5432)), entry("kept-out", "there", tcp(5433))),
)
NARROW = replace(WIDE, ingress=WIDE.ingress[1:], egress=WIDE.egress[1:])
GROUPS = {"there": (f"{THERE}/32", f"{THERE6}/128")}


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    made = TwoHosts()
    try:
        yield made
    finally:
        made.close()


class Station:
    """The agent's enforcer and its flows, in a process that is the unit's."""

    def __init__(self) -> None:
        (CGROUPS / UNIT).mkdir(parents=True)
        (CGROUPS / UNIT / "cgroup.procs").write_text("0")
        number = (CGROUPS / UNIT).stat().st_ino
        self.enforcer = Enforcer(NetlinkKernel(), lambda names: {}, os.getuid())
        self.enforcer.cgroups_changed({"system.slice": (CGROUPS / "system.slice").stat().st_ino, UNIT: number}, {})
        self.told: list[pb.FlowBatch] = []
        paths = {number: UNIT}
        self.service = FlowService(
            "web-1",
            self.enforcer.layout,
            lambda: self.enforcer.policy,
            self.live,
            lambda: self.enforcer.identity,
            paths.get,
            Attributor(paths.get, CGROUPS),
            lambda: self.enforcer.facts.controller,
            self.told.append,
        )

    def live(self) -> dict[DecisionId, str]:
        return {key: d.workload for key, d in self.enforcer.decisions.by_id.items() if d.lives}

    def put(self, workload: LocalWorkload) -> None:
        self.enforcer.put(policy(workload, groups=GROUPS))
        self.service.committed()


def error_of(end: socket.socket) -> int:
    end.settimeout(0.5)
    try:
        end.recv(16)
    except TimeoutError:
        return 0
    except OSError as error:
        return error.errno or 0
    return -1


@pytest.mark.parametrize(("here", "there"), [(HERE, THERE), (HERE6, THERE6)])
def test_idle_sessions_end_in_both_directions_and_permitted_ones_stay(hosts: TwoHosts, here: str, there: str) -> None:
    def body() -> float:
        station = Station()
        station.put(WIDE)
        with hosts.over_there():
            far = [server(there, port) for port in (5432, 5433)]
        near = [server(here, port) for port in (443, 444)]
        (cut_out, peer_out), kept_out = (session(one) for one in far)
        with hosts.over_there():
            (peer_in, cut_in), kept_in = (session(one) for one in near)
        asyncio.run(station.service.sweep())
        station.put(NARROW)
        began = time.perf_counter()
        swept = asyncio.run(station.service.sweep())
        took = time.perf_counter() - began
        assert (swept.dead, swept.ended, swept.forgotten, swept.lingering) == (4, 2, 0, 0)
        assert (error_of(cut_out), error_of(cut_in)) == (errno.ECONNABORTED, errno.ECONNABORTED)
        assert (error_of(peer_out), error_of(peer_in)) == (errno.ECONNRESET, errno.ECONNRESET)
        assert talks(*kept_out)
        assert talks(*kept_in)
        assert (
            ids_in_use(ConntrackReader().read(), station.enforcer.layout) <= station.live().keys()
        )  # what was permitted has taken a live id
        return took

    took = hosts.call(body)
    assert took < patience(1)


def test_flows_and_impact_come_from_the_marks_of_the_real_rules(hosts: TwoHosts) -> None:
    def body() -> tuple[list[bytes], bytes]:
        station = Station()
        station.put(WIDE)
        station.service.look()
        with hosts.over_there():
            far = server(THERE, 5432)
        near = server(HERE, 443)
        kept = [session(far), session(far)]
        with hosts.over_there():
            kept.append(session(near))
        kept.append(session(server("127.0.0.1", 5432)))
        station.service.look()
        draft = wire.host_policy_to_wire(policy(NARROW, groups=GROUPS)).SerializeToString()
        reply = asyncio.run(station.service.impact(ImpactAsked(1, draft, 10)))
        assert all(talks(*pair) for pair in kept)
        return [batch.SerializeToString() for batch in station.told], reply.SerializeToString()

    batches, reply = hosts.call(body)
    (told,) = [pb.FlowBatch.FromString(b) for b in batches]
    rows = zip(told.workload, told.rule, told.direction, told.port, told.flows, told.verdict, strict=True)
    assert sorted((told.workloads[w], told.rules[r], *more) for w, r, *more in rows) == [
        ("shop", "cut-in", 1, 443, 1, 0),
        ("shop", "cut-out", 0, 5432, 2, 0),
    ]
    impact = pb.ImpactReply.FromString(reply)
    assert (impact.live, impact.cut, impact.error) == (3, 3, "")
    assert sorted((c.workload, c.rule, c.ingress, c.process.unit) for c in impact.connections) == [
        ("shop", "cut-in", True, "shop.service"),
        ("shop", "cut-out", False, "shop.service"),
        ("shop", "cut-out", False, "shop.service"),
    ]
