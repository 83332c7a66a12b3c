"""What is refused, and what passes, comes back with its process and its rule."""

from __future__ import annotations

import pytest

from lab.chapters import CRON_TO_API, NGINX
from lab.flows import Flow, wrong
from lab.wait import until

SECONDS = 60


def told(fleet, **wanted):
    """Denials with these fields, newest last."""

    def found():
        return [one for one in fleet.records("denied", "--limit", "1000") if wanted.items() <= one.items()]

    return until(f"a denial with {wanted} is told", found, SECONDS, every=0.2)[-1]


@pytest.mark.needs("web1", "api1")
def test_a_denial_names_its_process_and_the_rule_that_would_allow_it(fleet, policy):
    assert wrong(fleet, Flow("web1", "cron.service", "api1", 8080, False, user="shop")) == []
    one = told(fleet, host="web1", direction="egress", peer_host="api1", service="tcp/8080")
    assert (one["workload"], one["verdict"]) == ("host", "denied")
    assert (one["process"]["unit"], one["process"]["user"]) == ("cron.service", "shop")
    assert one["process"]["pid"] > 0
    assert "call api1 8080" in one["process"]["command"]
    (policy / "suggested.yaml").write_text(one["suggestion"].replace("CHANGE-ME", "team-shop"))
    fleet.push(policy)
    assert wrong(fleet, Flow("web1", "cron.service", "api1", 8080, True)) == []


@pytest.mark.needs("web1", "client1")
def test_the_refusing_end_names_its_listener_and_the_stranger(fleet):
    assert wrong(fleet, Flow("client1", "", "web1", 22, False)) == []
    one = told(fleet, host="web1", direction="ingress", service="tcp/22", peer_address="10.77.200.5")
    assert one["process"]["unit"] == "ssh.service"


@pytest.mark.needs("dev1", "db1")
def test_a_boundary_is_named_as_the_reason(fleet):
    assert wrong(fleet, Flow("dev1", NGINX, "db1", 5432, False)) == []
    one = told(fleet, host="dev1", peer_host="db1", service="tcp/5432")
    assert (one["reason"], one["rule"]) == ("boundary", "dev-stays-out-of-prod")


@pytest.mark.needs("web1", "api1")
def test_what_passed_is_told_with_both_ends_and_its_rule(fleet):
    assert wrong(fleet, Flow("web1", NGINX, "api1", 8080, True), CRON_TO_API) == []
    wanted = {"host": "web1", "workload": "shop-web", "direction": "egress", "peer_host": "api1", "rule": "web-to-api"}

    def seen():
        return [flow for flow in fleet.document("flows")["flows"] if wanted.items() <= flow.items()]

    assert until("the flow is told", seen, SECONDS, every=0.5)[0]["peer_workload"] == "shop-api"
