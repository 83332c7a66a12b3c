"""Agents follow what happens on their hosts by themselves: restarts of units, new and lost addresses."""

from lab.chapters import API, CLIENT_TO_WEB, CRON_TO_API, NGINX, WEB_TO_API
from lab.flows import Flow, wrong
from lab.host import PROGRAM
from lab.wait import until


def addresses(fleet, host):
    listed = fleet.document("status")["hosts"]
    return set(next(one["addresses"] for one in listed if one["name"] == host))


def test_a_restarted_unit_keeps_its_rules(fleet):
    for host, unit in (("web1", NGINX), ("api1", API)) * 3:
        before, after = fleet.lab.units[host].restart(fleet.lab.spec(host).unit(unit))
        assert before != after
        assert wrong(fleet, WEB_TO_API) == []
    assert wrong(fleet, CLIENT_TO_WEB, CRON_TO_API) == []


def test_a_process_that_connects_as_soon_as_its_unit_starts_is_judged_as_that_unit(fleet):
    units = fleet.lab.units["web1"]
    units.stop(NGINX)
    try:
        for _ in range(5):
            call = fleet.call("web1", "api1", 8080, unit=NGINX, seconds=4)
            assert call.open, call.text
            units.kill(NGINX)  # removes the cgroup: the next call makes a new one
    finally:
        units.start_all([fleet.lab.spec("web1").unit(NGINX)])


def test_a_unit_that_no_workload_names_stays_refused_when_it_is_new(fleet):
    units = fleet.lab.units["web1"]
    units.start("new.service", [*PROGRAM, "idle"])
    try:
        assert wrong(fleet, Flow("web1", "new.service", "api1", 8080, False)) == []
    finally:
        units.stop("new.service")


def test_a_new_address_is_accepted_and_others_follow(fleet):
    new = {"4": "10.77.1.12", "6": "fd77:0:1::12"}
    flows = [Flow("web1", NGINX, "api1", 8080, True, families=f, bind=a) for f, a in new.items()]
    for address in new.values():
        fleet.lab.add_address("web1", address)
    try:
        until("the controller knows the addresses", lambda: set(new.values()) <= addresses(fleet, "web1"), 10)
        fleet.await_in_sync()
        until("api1 lets the new addresses in", lambda: not wrong(fleet, *flows), 10)
        other = [Flow("web1", "cron.service", "api1", 8080, False, families=f, bind=a) for f, a in new.items()]
        assert wrong(fleet, *other) == []
        assert wrong(fleet, *[Flow("client1", "", a, 80, True, families=f) for f, a in new.items()]) == []
    finally:
        for address in new.values():
            fleet.lab.remove_address("web1", address)
    until("the controller forgets them", lambda: not set(new.values()) & addresses(fleet, "web1"), 10)
    fleet.await_in_sync()
    assert wrong(fleet, WEB_TO_API) == []


def test_an_address_that_another_host_holds_cannot_be_claimed(fleet):
    fleet.lab.partition("db1", True)  # the network would show the clash at once
    fleet.lab.add_address("dev1", "10.77.3.11")
    try:
        until("the claim is refused and shown", lambda: problems(fleet, "dev1"), 10)
        assert "10.77.3.11" not in addresses(fleet, "dev1")
        assert "10.77.3.11" in addresses(fleet, "db1")
    finally:
        fleet.lab.remove_address("dev1", "10.77.3.11")
        fleet.lab.partition("db1", False)
    until("the problem is gone", lambda: not problems(fleet, "dev1"), 10)
    fleet.await_in_sync(60)


def problems(fleet, host):
    return next(one["problems"] for one in fleet.document("status")["hosts"] if one["name"] == host)
