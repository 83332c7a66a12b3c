"""The recorded shop goes through a controller's real ingest, and is found again with the processes of both ends."""

from __future__ import annotations

from pathlib import Path

from segctl.proto.v1 import admin_pb2

from lab.recording import SHOP_TRAFFIC, read_recording
from tests.controller_harness import running_controller
from tests.shopdependencies import DEPENDENCIES
from tests.shoptraffic import shop_traffic

MOST = 10_000


async def test_the_recorded_shop_is_found_again(tmp_path: Path) -> None:
    recording = read_recording(SHOP_TRAFFIC)
    async with running_controller(tmp_path) as lab, shop_traffic(lab, recording) as shop:
        span = {"since_us": shop.since_us, "until_us": shop.until_us}
        reply = await lab.admin().Flows(admin_pb2.FlowsRequest(limit=MOST, **span))
        hosts = await lab.hosts()
    assert sum(one.flows for one in reply.flows) == sum(row.flows for row in recording.flows)
    assert {host.state for host in hosts.values()} == {"in-sync"}
    found = {
        (one.host, one.peer_host, one.process, one.peer_process, one.service.low)
        for one in reply.flows
        if not one.ingress
    }
    for dependency in DEPENDENCIES:
        for source, destination in dependency.pairs():
            if source in hosts:
                processes = (dependency.source_process, dependency.destination_process)
                assert (source, destination, *processes, dependency.port) in found, (source, destination, found)
