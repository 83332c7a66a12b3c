"""Whoever changes our table: it is healed and reported with the culprit. Other tables are nobody's business."""

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


@pytest.mark.parametrize(
    "command",
    [
        ["delete", "table", "inet", "segctl"],
        INSERT,
        ["flush", "chain", "inet", "segctl", "output"],
        ["flush", "ruleset"],
    ],
    ids=["delete-table", "insert-accept", "flush-chain", "flush-ruleset"],
)
def test_a_change_of_our_table_is_healed_and_reported(fleet, command, record_property):
    whole = table(fleet)
    assert "policy drop" in whole
    began = time.time()
    fleet.nft("web1", *command)
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
        fleet.nft("web1", "delete", "table", "inet", "segctl")
        until("the table is there again", lambda: "policy drop" in table(fleet), 5)
        assert fleet.nft("web1", "list", "table", "inet", "docker") == before
    finally:
        fleet.nft("web1", "delete", "table", "inet", "docker")
