"""What a host tells the audit log: once, bounded, paced, and as the host's own words."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from segctl.errors import WireError
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.hostaudit import MOST_AN_HOUR, host_entry

from tests.controller_harness import ControllerLab, running_controller

AT = 1_800_000_000_000_000


def said(number: int = 1, action: str = "release", **fields: object) -> agent_pb2.HostEntry:
    values = {"id": f"{number:016x}", "action": action, "at_us": AT, "who": "alice (uid 0)", **fields}
    return agent_pb2.HostEntry(**values)  # type: ignore[arg-type]


async def audit(lab: ControllerLab) -> list[tuple[str, str, str, str]]:
    reply = await lab.admin().Audit(admin_pb2.AuditRequest(limit=1000))
    return [(e.actor, e.action, e.subject, e.detail) for e in reply.entries if e.action.startswith("release")]


async def test_it_is_stored_once_as_the_hosts_words(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        first = said(reason="the shop\nis down", until_us=AT + 60_000_000)
        assert await agent.told(first) == [first.id]
        assert await agent.told(first, said(2, "release-ended")) == [first.id, said(2).id]
        ended, begun = await audit(lab)
        assert begun[:3] == ("host web1", "release", "host web1")
        assert begun[3] == (
            "by alice (uid 0) at 2027-01-15 08:00:00 UTC by the host's clock; until 2027-01-15 08:01:00 UTC; "
            "reason: the shop is down"
        )
        assert ended[1] == "release-ended"
    async with running_controller(tmp_path) as lab:
        other = await lab.enrol("web2", {})
        assert await other.told(first) == [first.id]  # another host's id is another entry
        assert len(await audit(lab)) == 3


async def test_a_host_that_floods_is_slowed_and_nothing_of_the_flood_is_stored(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        taken = 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            for number in range(20):
                taken += len(await agent.told(*(said(number * 20 + i) for i in range(20))))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert taken == MOST_AN_HOUR == len(await audit(lab))


async def test_only_hosts_of_the_fleet_are_heard(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.told(said())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await audit(lab) == []


@pytest.mark.parametrize(
    "told",
    [
        said(action="push"),
        said(id="short"),
        said(id="x" * 65),
        said(who="x" * 513),
        said(reason="x" * 513),
        said(at_us=-1),
        said(until_us=2**62),
    ],
)
def test_what_is_malformed_is_refused(told: agent_pb2.HostEntry) -> None:
    with pytest.raises(WireError):
        host_entry("web1", told, 1)
