"""Whoever changes our table: the kernel refuses it where the table is owned; where it is only watched, it is healed and
reported with the culprit. Other tables are nobody's business."""

import re
import time
from datetime import datetime

import pytest

from lab.chapters import CRON_TO_API, WEB_TO_API
from lab.flows import wrong
from lab.wait import until

INSERT = ["insert", "rule", "inet", "segctl", "output", "counter", "accept"]


def table(fleet):
    """The output chain as text, without its epoch: a healing takes the next one, so that flows are judged anew."""
    chain = fleet.lab.hosts["web1"].run(["nft", "list", "chain", "inet", "segctl", "output"]).stdout
    return re.sub(r"0x[0-9a-f]{8}", "EPOCH", chain)


def tampers(fleet, since):
    events = fleet.document("status")["events"]
    mine = [event for event in events if (event["kind"], event["host"]) == ("tamper", "web1")]
    return [event for event in mine if datetime.fromisoformat(event["at"]).timestamp() >= since - 0.1]


TAMPERINGS = {
    "delete-table": ["delete", "table", "inet", "segctl"],
    "insert-accept": INSERT,
    "flush-chain": ["flush", "chain", "inet", "segctl", "output"],
    "flush-ruleset": ["flush", "ruleset"],
}


@pytest.fixture
def watching(fleet):
    """The agent of web1 only watches a table that anyone may change; afterwards the next one takes it over."""
    fleet.stop_agent("web1")
    fleet.nft("web1", "delete", "table", "inet", "segctl")
    fleet.start_agent("web1", "--table-guard", "watch")
    yield fleet
    fleet.stop_agent("web1")
    fleet.start_agent("web1")


@pytest.mark.parametrize("name", TAMPERINGS)
def test_the_kernel_refuses_a_change_of_an_owned_table(fleet, name):
    whole = table(fleet)
    assert "policy drop" in whole
    began = time.time()
    done = fleet.lab.hosts["web1"].run(["nft", *TAMPERINGS[name]])
    assert (done.returncode, table(fleet)) == (0 if name == "flush-ruleset" else 1, whole), done.stderr
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    assert tampers(fleet, since=began) == []


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_change_of_a_watched_table_is_healed_and_reported(watching, name, record_property):
    fleet = watching
    whole = table(fleet)
    assert "policy drop" in whole
    began = time.time()
    fleet.nft("web1", *TAMPERINGS[name])
    until("the chain is as it was", lambda: table(fleet) == whole, 5, every=0.005)
    seconds = time.time() - began
    record_property("healed_s", round(seconds, 3))
    print(f"healed, with the run of nft: {seconds * 1000:.0f} ms")
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    told = until("the tampering is told", lambda: tampers(fleet, since=began), 5)
    assert [event for event in told if event["culprit_name"] == "nft"], told


def test_other_tables_are_left_alone(fleet, policy):
    fleet.nft("web1", "add table inet docker; add chain inet docker mine; add rule inet docker mine counter accept")
    before = fleet.nft("web1", "list", "table", "inet", "docker")
    try:
        fleet.push(policy.replace("shop.yaml", "customers use the shop", "customers use it"))
        fleet.push(
            policy.replace("access.yaml", "{select: {env: prod}, mode: enforce}", "{select: {env: prod}, mode: test}")
        )
        fleet.kill_agent("web1")
        fleet.start_agent("web1")
        assert "policy drop" in table(fleet)
        assert fleet.nft("web1", "list", "table", "inet", "docker") == before
    finally:
        fleet.nft("web1", "delete", "table", "inet", "docker")
