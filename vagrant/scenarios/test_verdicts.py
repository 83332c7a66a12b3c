"""Real connections of real processes meet what the policy says, IPv4 and IPv6."""

from __future__ import annotations

import pytest

from lab.chapters import API, API_TO_DB, CLIENT_TO_WEB, CRON_TO_API, DB, DEV_TO_API, NGINX, WEB_TO_API, WEB_TO_DB
from lab.flows import Flow, wrong

WEB_ASKS = Flow("web1", NGINX, "api1", 8080, True, user="www-data")
PASS = (
    CLIENT_TO_WEB,
    WEB_ASKS,
    WEB_TO_API,
    API_TO_DB,
    Flow("bastion1", "ops.service", "web1", 22, True, hears="SSH"),
    Flow("bastion1", "ops.service", "db1", 22, True, hears="SSH"),
    Flow("ctl", "", "web1", 22, True, hears="SSH"),
    Flow("ctl", "", "db1", 22, True, hears="SSH"),
)
BORROWED = "user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service"
FAIL = (
    CRON_TO_API,
    WEB_TO_DB,
    DEV_TO_API,
    Flow("web1", "", "api1", 8080, False, user="alice"),
    Flow("web1", "", "db1", 5432, False, user="alice"),
    Flow("web1", "system.slice/cron.service/job", "api1", 8080, False),
    Flow("web1", BORROWED, "api1", 8080, False, user="alice"),
    Flow("web1", NGINX, "api1", 22, False),
    Flow("db1", DB, "api1", 8080, False),
    Flow("dev1", "", "db1", 22, False),
    Flow("bastion1", "", "db1", 22, False, user="alice"),
    Flow("client1", "", "api1", 8080, False),
    Flow("client1", "", "db1", 5432, False),
    Flow("client1", "", "web1", 22, False),
    Flow("ctl", "", "api1", 8080, False),
)


def among(fleet, flows):
    """Those whose hosts are all up."""
    hosts = {host.name for host in fleet.topology.hosts}
    found = [flow for flow in flows if {flow.source, flow.destination, *(("db1",) if flow.say else ())} <= hosts]
    assert found, f"none of these flows is between {', '.join(sorted(hosts))}"
    return found


def test_what_the_rules_and_the_rescue_list_allow_passes(fleet):
    assert wrong(fleet, *among(fleet, PASS)) == []


def test_everything_else_is_refused(fleet):
    assert wrong(fleet, *among(fleet, FAIL)) == []


@pytest.mark.needs("web1", "api1")
def test_a_listener_that_is_not_the_named_process_is_not_reached(fleet):
    fleet.stop_unit("api1", API)
    try:
        fleet.serve("api1", "rogue.service", 8080, "give me your data")
        assert wrong(fleet, WEB_ASKS, Flow("web1", NGINX, "api1", 8080, False)) != []  # it is one or the other
        assert wrong(fleet, Flow("web1", NGINX, "api1", 8080, False)) == []
        fleet.stop_unit("api1", "rogue.service")
    finally:
        fleet.start_unit("api1", API)
    assert wrong(fleet, WEB_ASKS) == []


@pytest.mark.needs("web1", "api1")
def test_a_restarted_unit_has_a_new_cgroup_and_its_old_rights(fleet):
    for host, unit in (("web1", NGINX), ("api1", API)):
        before = fleet.cgroup_id(host, unit)
        fleet.stop_unit(host, unit)
        fleet.start_unit(host, unit)
        assert fleet.cgroup_id(host, unit) != before
    assert wrong(fleet, WEB_ASKS, CRON_TO_API) == []


@pytest.mark.needs("web1", "api1")
@pytest.mark.parametrize(("source", "verdict"), [("web1/shop-web", "allowed"), ("web1/host", "denied")])
def test_explain_says_what_the_kernels_do(fleet, source, verdict):
    told = fleet.document("explain", source, "api1/shop-api", "tcp/8080", "--live")
    assert (told["verdict"], told["differs"]) == (verdict, False)
    assert all(end["kernel_verdict"] for end in told["ends"])
