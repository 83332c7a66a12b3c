"""Observations of the flow store, and denials, in the terms of the engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from segctl.model.policy import PortRange, Tags
from segctl.proto.v1 import admin_pb2, agent_pb2, hostpolicy_pb2
from segctl.suggest.observed import DAY_US, HOUR_US, ObservedEnd, Window
from segctl_controller.flowstore.records import DAYS, MAPPED, Observation
from segctl_controller.flowstore.records import ObservedEnd as StoredEnd
from segctl_controller.store.records import DenialRecord
from segctl_controller.suggestions.gather import Gatherer, denials, window_of

from tests.shop import FLEET

UNTIL = 20_000 * DAY_US + 13 * HOUR_US
ROW = Observation(
    StoredEnd("role=web", "shop-web", "unit:nginx.service", hosts=3),
    StoredEnd(None, remote=MAPPED + bytes((203, 0, 113, 7)), prefix=120, hosts=2),
    6,
    443,
    9,
    0,
    0,
    UNTIL - 9 * DAY_US,
    UNTIL,
    0,
    0,
)


def days(*numbers: int) -> int:
    return sum(1 << day % DAYS for day in numbers)


def test_days_of_the_store_are_days_of_the_window() -> None:
    window = Window.of(UNTIL - 28 * DAY_US, UNTIL)
    row = replace(ROW, days=days(19_991, 20_000, 19_950))
    [found] = Gatherer(window, ()).observations([row])
    assert found.bins == 1 << 28 | 1 << 19  # the third is before the row's first flow
    [living] = Gatherer(window, ()).observations([ROW])
    assert living.bins == 1 << 28
    assert (found.source, found.source_hosts) == (
        ObservedEnd(Tags.of({"role": "web"}), "shop-web", "unit:nginx.service"),
        3,
    )


def test_a_fleet_that_is_new_is_judged_by_hours() -> None:
    row = replace(ROW, first_us=UNTIL - 5 * HOUR_US, hours=1 << 9 | 1 << 13, days=days(20_000))
    window = window_of([row], UNTIL - 28 * DAY_US, UNTIL)
    assert (window.by_day, window.since_us) == (False, UNTIL - 5 * HOUR_US)
    [found] = Gatherer(window, ()).observations([row])
    assert found.bins == 1 << 1 | 1 << 5
    assert window_of([ROW], UNTIL - 28 * DAY_US, UNTIL).by_day
    with pytest.raises(ValueError, match="window"):
        window_of([], UNTIL, UNTIL)


def test_addresses_of_a_network_are_told_one_by_one_where_all_are_known() -> None:
    window = Window.of(UNTIL - 28 * DAY_US, UNTIL)
    known = [MAPPED + bytes((203, 0, 113, last)) for last in (7, 9)]
    found = list(Gatherer(window, known).observations([ROW]))
    assert [str(one.destination) for one in found] == ["203.0.113.7", "203.0.113.9"]
    assert [one.flows for one in found] == [4, 4]
    [together] = Gatherer(window, [*known, MAPPED + bytes((203, 0, 113, 11))]).observations([ROW])
    assert (str(together.destination), together.destination_hosts) == ("203.0.113.0/24", 2)


def test_denials_are_of_enrolled_hosts() -> None:
    service = hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432)
    process = agent_pb2.ProcessInfo(unit="nginx.service", user="www-data")
    denied = agent_pb2.Denial(verdict="denied", remote=b"\x0a\x00\x00\x02", service=service, process=process)
    body = admin_pb2.DeniedConnection(denial=denied, peer_host="db1").SerializeToString()
    row = DenialRecord("web1", "host", "k", 3, UNTIL - DAY_US, UNTIL - DAY_US, body)
    window = Window.of(UNTIL - 28 * DAY_US, UNTIL)
    [found] = denials([row, replace(row, host="gone")], FLEET, window)
    assert (found.source.process, found.denied, found.bins) == ("unit:nginx.service", 3, 1 << 27)
    assert (found.destination.tags, found.service) == (FLEET.hosts["db1"].tags, PortRange("tcp", 5432, 5432))
    denied.verdict = "would-deny"
    body = admin_pb2.DeniedConnection(denial=denied).SerializeToString()
    assert list(denials([replace(row, body=body)], FLEET, window)) == []
    denied.verdict, denied.ingress = "denied", True
    denied.process.unit = "container:a"
    body = admin_pb2.DeniedConnection(denial=denied).SerializeToString()
    [incoming] = denials([replace(row, body=body)], FLEET, window)
    assert (str(incoming.source), incoming.destination.process) == ("10.0.0.2", "container:a")
