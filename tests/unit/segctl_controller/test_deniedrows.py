"""Denied connections in the form of flows, with the tags of their hosts at the time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from segctl.model.policy import Tags
from segctl.proto.v1 import admin_pb2, agent_pb2, hostpolicy_pb2
from segctl_controller.deniedrows import DENIED, DeniedRows
from segctl_controller.flowstore.outside import Peers
from segctl_controller.flowstore.records import EndFilter, MapFilter, MapRow
from segctl_controller.store.records import DenialRecord, HostRecord

from tests.flowrows import mapped
from tests.unit.segctl_controller.flowstore.test_draft import parsed

POLICY = parsed("""version: 1
tags: {role: [web, db], zone: [a, b]}
peers: {office: [203.0.113.0/24]}
workloads: {shop-web: {on: {role: web}, tags: {zone: b}, process: {unit: nginx.service}}}
""")
PEERS = Peers(POLICY)
HOSTS = {"web1": HostRecord("web1", Tags.of({"role": "web", "zone": "a"}), "s", 0)}
EVERY = MapFilter(10, starts=PEERS.ranges.starts, hosts=True, processes=True, blocks=True)


def record(number: int = 1, last: int = 9, **fields: Any) -> DenialRecord:
    body: dict[str, Any] = {"tags": {"role": "web", "zone": "b"}, **fields.pop("body", {})}
    denial: dict[str, Any] = {
        "verdict": "denied",
        "remote": ip_address("203.0.113.9").packed,
        "service": hostpolicy_pb2.PortRange(protocol="tcp", low=22, high=22),
        "process": agent_pb2.ProcessInfo(exe="/usr/bin/curl", unit="nginx.service"),
        **fields,
    }
    made = admin_pb2.DeniedConnection(host="web1", denial=agent_pb2.Denial(**denial), **body)
    return DenialRecord("web1", "shop-web", f"k{number}", 4, 1, last, made.SerializeToString(), number)


def rows(*records: DenialRecord, wanted: MapFilter = EVERY) -> list[MapRow]:
    return DeniedRows().of(records, wanted, POLICY, PEERS, HOSTS)


def test_tags_are_of_the_host_and_not_of_its_workload() -> None:
    [row] = rows(record())
    assert (row.tags, row.peer_tags, row.remote) == ("role=web,zone=a", None, mapped("203.0.113.9"))
    assert (row.host, row.workload, row.process, row.block) == (
        "web1",
        "shop-web",
        "unit:nginx.service",
        mapped("203.0.113.0"),
    )
    assert (row.flows, row.fresh, row.last_us, row.protocol, row.port) == (4, 4, 9, 6, 22)
    [plain] = rows(record(), wanted=MapFilter(10, keys=["zone"], starts=PEERS.ranges.starts, fresh_us=10))
    assert (plain.tags, plain.host, plain.process, plain.block, plain.fresh) == ("zone=a", "", "", b"", 0)
    [managed] = rows(record(ingress=True, body={"peer_host": "db1", "peer_tags": {"role": "db"}, "peer_workload": "x"}))
    assert (managed.peer_tags, managed.peer, managed.remote, managed.peer_workload) == ("role=db", "db1", b"", "")


def test_what_only_would_be_denied_is_among_the_flows() -> None:
    assert rows(record(verdict="would-deny")) == []
    assert len(DeniedRows().among([record(verdict="would-deny")], EVERY, POLICY, PEERS, HOSTS)) == 1
    sctp = record(service=hostpolicy_pb2.PortRange(protocol="ip", low=132, high=132))
    assert [(row.protocol, row.port) for row in rows(sctp)] == [(132, 0)]


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"source": EndFilter((("role", "web"),))}, True),
        ({"source": EndFilter((("role", "db"),))}, False),
        ({"source": EndFilter((("role", "web"), ("app", "")))}, True),
        ({"source": EndFilter((("role", ""),))}, False),
        ({"destination": EndFilter((("role", "web"),))}, False),
        ({"source": EndFilter(host="web1", workload="shop-web", process="unit:nginx.service")}, True),
        ({"source": EndFilter(workload="host")}, False),
        ({"source": EndFilter(process="exe:/usr/bin/curl")}, False),
        ({"destination": EndFilter(outside=True, places=PEERS.places("office"))}, True),
        ({"destination": EndFilter(outside=True, places=PEERS.places(""))}, False),
        ({"destination": EndFilter(outside=True, block=(mapped("203.0.113.0"), mapped("203.0.113.255")))}, True),
        ({"destination": EndFilter(outside=True, block=(mapped("10.0.0.0"), mapped("10.0.0.255")))}, False),
        ({"protocol": 17}, False),
        ({"port": 22}, True),
        ({"until_us": 0}, True),
        ({"until_us": 1}, True),
    ],
)
def test_they_are_narrowed_like_flows(fields: dict[str, Any], fits: bool) -> None:
    assert bool(rows(record(), wanted=replace(EVERY, **fields))) is fits


def test_a_body_is_read_once() -> None:
    kept = DeniedRows()
    assert len(kept.among([record(), record(2)], EVERY, POLICY, PEERS, HOSTS, DENIED)) == 2
    [read] = kept._read.values()
    kept.among([record(3)], EVERY, POLICY, PEERS, HOSTS)
    assert next(iter(kept._read.values())) is read
    kept.among([], EVERY, POLICY, PEERS, HOSTS)
    assert not kept._read


def test_an_id_that_is_given_again_is_another_row() -> None:
    """The host with the newest denial was removed: the next denial gets that id."""
    read = DeniedRows()
    [before] = read.of([record()], EVERY, POLICY, PEERS, HOSTS)
    [after] = read.of([record(remote=ip_address("203.0.113.77").packed)], EVERY, POLICY, PEERS, HOSTS)
    assert (before.remote, after.remote) == (mapped("203.0.113.9"), mapped("203.0.113.77"))
