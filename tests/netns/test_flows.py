"""Flows observed, and a draft's impact, on the kernel's own connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from segctl import wire
from segctl.model.hostpolicy import LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.conversation import ImpactAsked
from segctl_agent.denials.attribute import Attributor
from segctl_agent.flows.answer import ImpactAnswerer
from segctl_agent.flows.decisions import DecisionId, RecentDecisions
from segctl_agent.flows.live import ids_in_use
from segctl_agent.flows.values import FlowRow
from segctl_agent.flows.watcher import FlowWatcher
from segctl_agent.messages import flow_batches

from tests.netns.spaces import CGROUPS, run
from tests.netns.twohosts import HERE, THERE, THERE6, TwoHosts, server, session, talks
from tests.unit.segctl_agent.flows.rows import Layout, entry, policy, tcp

pytestmark = pytest.mark.kernel

UNIT = "system.slice/shop.service"
RULES = """
table inet marked {
  chain nat {
    type nat hook prerouting priority -100;
    tcp dport 80 redirect to :8080
  }
  chain out {
    type filter hook output priority 0;
    oif lo accept
    tcp dport 5432 ct mark set 0x00200000
    udp dport 53 ct mark set 0x00100000
  }
  chain in {
    type filter hook input priority 0;
    iif lo accept
    tcp dport 8080 ct mark set 0x00000400
    icmp type echo-request ct mark set 0x00000500
  }
}
"""
DEAF = "table inet deaf { chain in { type filter hook input priority 0; policy drop; }\n}\n"
SHOP = LocalWorkload(
    "shop",
    Process(ProcessKind.UNIT, "shop.service"),
    Mode.ENFORCE,
    ingress=(entry("clients", "there", tcp(8080)),),
    egress=(entry("shop-to-db", "there", tcp(5432)),),
)
POLICY = policy(SHOP, groups={"there": (f"{THERE}/32", f"{THERE6}/128")}, host=Mode.OBSERVE)
LIVE: dict[DecisionId, str] = {("out", 2): "shop", ("in", 4): "shop", ("in", 5): "host", ("out", 1): ""}


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    made = TwoHosts()
    try:
        yield made
    finally:
        made.close()


def watcher() -> FlowWatcher:
    decisions = RecentDecisions()
    decisions.learn(LIVE)
    return FlowWatcher(ConntrackReader(), Layout(), decisions, lambda: POLICY, lambda: LIVE, lambda _: None)


def looked(watching: FlowWatcher) -> list[FlowRow]:
    window = watching.look()
    assert window is not None
    assert window.lost == 0
    assert sum(len(b.flows) for b in flow_batches(window)) == len(window.rows)
    return sorted(window.rows, key=lambda r: r.key)


def told(rows: list[FlowRow]) -> list[tuple[str, str, str, int, int, str, str, int]]:
    return [
        (
            r.key.direction,
            r.key.workload,
            str(ip_address(r.key.remote)),
            r.key.protocol,
            r.key.port,
            r.key.rule,
            r.key.verdict,
            r.flows,
        )
        for r in rows
    ]


def test_flows_bear_their_workload_and_rule(hosts: TwoHosts) -> None:
    def body() -> None:
        run("nft", "-f", "-", stdin=RULES)
        watching = watcher()
        assert looked(watching) == []
        with hosts.over_there():
            databases = [server(THERE, 5432), server(THERE6, 5432)]
        pairs = [session(one) for one in (*databases, databases[0])]
        web = server(HERE, 8080)
        with hosts.over_there():
            client = socket.create_connection((HERE, 80))
            echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            echo.sendto(b"\x08\x00\xf7\xfd\x00\x01\x00\x01", (HERE, 0))
            echo.settimeout(5)
            echo.recv(100)
        assert talks(client, web.accept()[0])
        local = session(server("127.0.0.1", 5432))  # loopback
        resolver = socket.socket(type=socket.SOCK_DGRAM)
        resolver.sendto(b"?", (THERE, 53))  # an essential
        assert told(looked(watching)) == [
            ("in", "host", THERE, 1, 8, "", "observed", 1),
            ("in", "shop", THERE, 6, 80, "clients", "allowed", 1),
            ("out", "shop", THERE, 6, 5432, "shop-to-db", "allowed", 2),
            ("out", "shop", THERE6, 6, 5432, "shop-to-db", "allowed", 1),
        ]
        assert ids_in_use(ConntrackReader().read(), Layout()) == {("out", 2), ("out", 1), ("in", 4), ("in", 5)}
        for end in (*local, *pairs[0]):
            end.close()
        with hosts.over_there():
            pairs.append(session(databases[0]))
        assert looked(watching) == []  # of the other host, and what is known already
        pairs.append(session(databases[0]))
        assert [r.flows for r in looked(watching)] == [1]

    hosts.call(body)


def test_a_connection_that_nobody_took_is_told_as_such(hosts: TwoHosts) -> None:
    def body() -> None:
        run("nft", "-f", "-", stdin=RULES)
        watching = watcher()
        looked(watching)
        with hosts.over_there():
            run("nft", "-f", "-", stdin=DEAF)
            database = server(THERE, 5432)
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((THERE, 5432))
        assert [(r.flows, r.answered) for r in looked(watching)] == [(1, False)]
        with hosts.over_there():
            run("nft", "delete", "table", "inet", "deaf")
        assert talks(client, database.accept()[0])  # the SYN came again
        assert [(r.flows, r.answered) for r in looked(watching)] == [(0, True)]

    hosts.call(body)


def test_a_short_session_is_seen_after_its_end_and_its_bytes_with_it(hosts: TwoHosts) -> None:
    def body() -> None:
        run("nft", "-f", "-", stdin=RULES)
        with open("/proc/sys/net/netfilter/nf_conntrack_acct", "w") as switch:  # noqa: PTH123
            switch.write("1")
        watching = watcher()
        looked(watching)
        with hosts.over_there():
            database = server(THERE, 5432)
        for _ in range(5):
            for end in session(database):
                end.close()
        (row,) = looked(watching)
        assert row.flows == 5
        assert row.bytes_sent > 5 * 200
        assert row.bytes_received > 5 * 200

    hosts.call(body)


def test_a_draft_names_the_process_of_what_it_would_cut(hosts: TwoHosts) -> None:
    def body() -> tuple[bytes, int]:
        run("nft", "-f", "-", stdin=RULES)
        (CGROUPS / UNIT).mkdir(parents=True)
        (CGROUPS / UNIT / "cgroup.procs").write_text("0")
        with hosts.over_there():
            database = server(THERE, 5432)
        kept = session(database)
        web = server(HERE, 8080)
        with hosts.over_there():
            client = socket.create_connection((HERE, 80))
        accepted = web.accept()[0]
        attributor = Attributor({(CGROUPS / UNIT).stat().st_ino: UNIT}.get, CGROUPS)
        answerer = ImpactAnswerer(
            "web-1",
            ConntrackReader(),
            Layout(),
            RecentDecisions(),
            lambda: POLICY,
            lambda: LIVE,
            attributor.describe,
        )
        draft = policy(
            replace(SHOP, ingress=(), egress=(entry("any", "there", PortRange("tcp", 0, 65535)),)),
            groups={"there": (f"{THERE}/32",)},
        )
        asked = ImpactAsked(7, wire.host_policy_to_wire(draft).SerializeToString(), 10)
        reply = asyncio.run(answerer.answer(asked))
        assert talks(client, accepted)  # asking ends nothing
        assert talks(*kept)
        return reply.SerializeToString(), client.getsockname()[1]

    serialized, port = hosts.call(body)
    reply = pb.ImpactReply.FromString(serialized)
    assert (reply.id, reply.live, reply.cut, reply.error) == (7, 2, 1, "")
    (cut,) = reply.connections
    assert (cut.ingress, cut.workload, cut.rule) == (True, "shop", "clients")
    assert (ip_address(cut.remote), cut.service.low, cut.remote_port) == (ip_address(THERE), 8080, port)
    assert (cut.process.unit, cut.process.cgroup) == ("shop.service", UNIT)
    assert cut.process.pid
    assert "python" in cut.process.exe
