"""A machine reboots: its rules are in force before its network is. Only where hosts are machines."""

from __future__ import annotations

import json

import pytest

from lab.chapters import CRON_TO_API, NGINX
from lab.flows import Flow, wrong

pytestmark = [pytest.mark.machines, pytest.mark.needs("web1", "api1")]


def test_from_power_on_nothing_passes_that_must_not(fleet):
    """Probes without a pause, as a process that may not reach api1 and as one that may."""
    address = fleet.topology.host("api1").v4
    probes = [*fleet.program, "watch", f"closed,4,{address},8080", f"closed,4,{address},5355"]
    watch = fleet.popen("ctl", probes)
    try:
        assert watch.stdout.readline() == "watching\n"
        fleet.reboot("api1")
        fleet.await_boot("api1", 900)
        fleet.await_in_sync(300)
        watch.stdin.close()
        watch.stdin = None
        seen = json.loads(watch.stdout.read())
        watch.wait()
    finally:
        watch.kill()
        watch.wait()
    assert all(one["probes"] > 20 for one in seen.values()), seen
    assert [words for one in seen.values() for words in one["wrong"]] == []
    assert wrong(fleet, Flow("web1", NGINX, "api1", 8080, True), CRON_TO_API) == []
