"""A pushed policy is what real connections of real processes meet, IPv4 and IPv6."""

import pytest

from lab.chapters import API, API_TO_DB, CLIENT_TO_WEB, CRON_TO_API, DB, DEV_TO_API, NGINX, WEB_TO_API
from lab.flows import Flow, wrong
from lab.host import PROGRAM
from lab.wait import until


def test_what_the_rules_allow_passes(fleet):
    ssh = [Flow("bastion1", "ops.service", host, 22, True, hears="SSH") for host in ("web1", "db1", "dev1")]
    assert wrong(fleet, CLIENT_TO_WEB, WEB_TO_API, API_TO_DB, *ssh) == []


def test_another_process_of_an_allowed_host_is_refused(fleet):
    session = Flow("web1", "", "api1", 8080, False, user="alice")
    nested = Flow("web1", "system.slice/cron.service/job", "api1", 8080, False)
    assert wrong(fleet, CRON_TO_API, session, nested, Flow("db1", DB, "api1", 8080, False)) == []


def test_a_cgroup_that_only_ends_in_the_name_of_a_unit_is_not_the_unit(fleet):
    borrowed = "user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service"
    assert wrong(fleet, Flow("web1", borrowed, "api1", 8080, False, user="alice")) == []


def test_a_port_that_no_rule_names_is_refused(fleet):
    assert wrong(fleet, Flow("web1", NGINX, "api1", 22, False), Flow("client1", "", "web1", 22, False)) == []


def test_a_listener_that_is_not_the_named_process_is_not_reached(fleet):
    units, unit = fleet.lab.units["api1"], fleet.lab.spec("api1").unit(API)
    units.stop(API)
    try:
        units.start("rogue.service", [*PROGRAM, "serve", "8080", "--banner", "rogue"])
        assert wrong(fleet, Flow("web1", NGINX, "api1", 8080, False)) == []
        units.stop("rogue.service")
    finally:
        units.kill("rogue.service")
        units.start_all([unit])
    assert wrong(fleet, WEB_TO_API) == []


def test_a_boundary_holds_against_a_rule_that_would_allow_it(fleet, policy):
    allow = "  - {name: let-dev-in, from: {env: dev}, to: {env: prod}, allow: [ssh, shop-api],\n"
    fleet.push(policy.add(f"{allow}     owner: dev, why: try, review: 2030-01-01}}\n"))
    assert wrong(fleet, DEV_TO_API, Flow("dev1", "", "db1", 22, False)) == []


@pytest.mark.parametrize(
    ("source", "destination", "service", "verdict"),
    [
        ("web1/shop-web", "api1/shop-api", "tcp/8080", "allowed"),
        ("web1/host", "api1/shop-api", "tcp/8080", "denied"),
        ("api1/shop-api", "db1/shop-db", "postgres", "allowed"),
        ("dev1/shop-web", "api1/shop-api", "tcp/8080", "denied"),
        ("fd77:200::5", "web1/shop-web", "http", "allowed"),
        ("10.77.200.5", "db1/shop-db", "postgres", "denied"),
    ],
)
def test_explain_says_what_the_kernels_do(fleet, source, destination, service, verdict):
    told = fleet.document("explain", source, destination, service, "--live")
    assert (told["verdict"], told["differs"]) == (verdict, False)
    assert any(end["kernel_verdict"] for end in told["ends"])


def test_a_push_that_breaks_a_policy_test_changes_nothing(fleet, policy):
    before = fleet.document("history")
    broken = policy.replace("shop.yaml", "    allow: [postgres]\n    owner", "    allow: [ssh]\n    owner")
    done = fleet.segctl("push", str(broken), "--yes")
    assert done.returncode == 1
    assert "shop.yaml" in done.stdout + done.stderr
    assert fleet.document("history") == before
    assert wrong(fleet, API_TO_DB) == []


def test_a_rollback_cuts_the_session_it_no_longer_allows(fleet, policy):
    rule = "  - {name: cron-to-api, from: {workload: host, role: web}, to: {workload: shop-api}, allow: [shop-api],\n"
    fleet.push(policy.add(f"{rule}     owner: web, why: nightly job, review: 2030-01-01}}\n"))
    hosts = fleet.lab.hosts
    sessions = {
        "revoked": hosts["web1"].popen([*PROGRAM, "hold", "api1", "8080"], unit="cron.service"),
        "kept": hosts["web1"].popen([*PROGRAM, "hold", "api1", "8080", "--family", "6"], unit=NGINX),
    }
    try:
        assert [session.stdout.readline() for session in sessions.values()] == ["connected\n", "connected\n"]
        fleet.segctl_checked("rollback", "--yes")
        until("the revoked session ends", lambda: sessions["revoked"].poll() is not None, 5)
        assert sessions["revoked"].stdout.read().startswith("cut: ")
        assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
        assert sessions["kept"].poll() is None
    finally:
        for session in sessions.values():
            session.kill()
            session.wait()
