"""How much of a rule is used, and the narrower rule."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from segctl.model.policy import PortRange, Rule, Tags
from segctl.policy.decide import Instance, instances, same_within, selects
from segctl.policy.life.breadth import Breadth, Ruler, Used

from tests.shop import FLEET, HTTP, POSTGRES, SHOP, SSH, fleet, host, rule, sel

WEB, DB = (Tags.of({"app": "shop", "role": role, "env": "prod"}) for role in ("web", "db"))
WEB_DEV, DB_DEV = (Tags.of({"app": "shop", "role": role, "env": "dev"}) for role in ("web", "db"))
USED = Used(WEB, "shop-web", DB, "", POSTGRES)
BACK = Used(WEB, "", DB, "shop-db", POSTGRES)


def measured(wide: Rule, *used: Used) -> Breadth:
    found = Ruler(SHOP, FLEET).measure(wide, used)
    assert found is not None
    return found


def test_a_rule_from_all_to_all_becomes_what_was_used() -> None:
    found = measured(rule("wide", sel(), sel(), PortRange("tcp", 1, 65535)), USED, BACK)
    assert (found.permitted, found.used, found.left) == (9 * 9 * 65535, 1, 1)
    narrower = found.narrower
    assert (narrower.source, narrower.destination) == (sel("shop-web", env="prod"), sel("shop-db", env="prod"))
    assert (narrower.allow, narrower.within) == (("postgres",), ())


def test_what_repeats_in_every_environment_is_related() -> None:
    dev = (replace(USED, source=WEB_DEV, destination=DB_DEV), replace(BACK, source=WEB_DEV, destination=DB_DEV))
    narrower = measured(rule("wide", sel(role="web"), sel(), POSTGRES, HTTP), USED, BACK, *dev).narrower
    assert (narrower.source, narrower.destination) == (sel("shop-web", role="web"), sel("shop-db"))
    assert (narrower.within, narrower.allow) == (("env",), ("tcp/5432",))


def test_a_workload_is_named_only_where_it_is_known_for_all() -> None:
    wide = rule("wide", sel(), sel(role="db", env="prod"), POSTGRES)
    assert measured(wide, USED).narrower.destination.workload is None
    assert measured(wide, USED, replace(USED, source_workload="host")).narrower.source.workload is None
    assert measured(wide, replace(USED, source_workload="gone")).narrower.source.workload is None


def test_whoever_calls_from_outside_is_not_counted() -> None:
    wide = rule("wide", sel(peer="office"), sel(), HTTP)
    found = measured(wide, Used(None, "", WEB, "shop-web", HTTP))
    assert (found.permitted, found.narrower.source) == (9, sel(peer="office"))
    assert found.narrower.destination == sel("shop-web", env="prod")


def test_ports_are_named_where_a_word_stands_for_very_many() -> None:
    many, few = rule("r", sel(), sel(), PortRange("tcp", 1000, 9999)), rule("r", sel(), sel(), PortRange("tcp", 80, 90))
    at = [replace(USED, service=PortRange("tcp", n, n)) for n in (5432, 8080)]
    assert measured(many, *at).narrower.allow == ("postgres", "tcp/8080")
    assert measured(
        many, *(replace(USED, service=PortRange("tcp", n, n)) for n in range(2000, 2009))
    ).narrower.allow == ("tcp/1000-9999",)
    assert measured(few, replace(USED, service=HTTP)).narrower.allow == ("tcp/80-90",)


def test_what_is_used_enough_stays() -> None:
    tight = rule("r", sel("shop-web"), sel("shop-db"), POSTGRES, within=("env",))
    found = measured(tight, USED)
    assert (found.permitted, found.left, found.narrower) == (2, 2, tight)
    assert Ruler(SHOP, FLEET).measure(tight, [replace(USED, service=SSH)]) is None


def test_tags_that_make_no_difference_are_left_out() -> None:
    ruler = Ruler(SHOP, fleet(host("web1", role="web", env="prod"), host("db1", role="db", env="prod")))
    wide = rule("wide", sel(), sel(), PortRange("tcp", 1, 65535))
    found = ruler.measure(wide, [Used(Tags.of({"role": "web", "env": "prod"}), "", Tags.of({"role": "db"}), "", SSH)])
    assert found is not None
    assert (found.narrower.source, found.narrower.destination) == (sel(role="web"), sel(role="db"))


def permits(rule_: Rule, source: Instance, destination: Instance, port: PortRange) -> bool:
    named = selects(rule_.source, source) and selects(rule_.destination, destination)
    return named and same_within(rule_, source.tags, destination.tags) and any(p.covers(port) for p in rule_.ports)


ROLES, ENVS = ("web", "db"), ("dev", "prod")
PORTS = (HTTP, SSH, PortRange("tcp", 1000, 1003), PortRange("udp", 1, 65535))
some_tags = st.fixed_dictionaries({}, optional={"role": st.sampled_from(ROLES), "env": st.sampled_from(ENVS)})
selectors = st.builds(
    lambda tags, workload: sel(workload, **tags),
    some_tags,
    st.sampled_from((None, None, "host", "shop-web", "shop-db")),
)
rules = st.builds(
    lambda source, destination, within, ports: rule("r", source, destination, *sorted(ports), within=within),
    selectors,
    selectors,
    st.sampled_from(((), ("env",), ("app",))),
    st.sets(st.sampled_from(PORTS), min_size=1),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(rules, st.lists(st.sampled_from(sorted(FLEET.hosts)), min_size=2, unique=True), st.data())
def test_the_narrower_rule_permits_what_was_used_and_nothing_new(
    wide: Rule, enrolled: list[str], data: st.DataObject
) -> None:
    everyone = [i for name in enrolled for i in instances(SHOP, FLEET.hosts[name])]
    pairs = [(a, b) for a in everyone for b in everyone if permits(wide, a, b, wide.ports[0])]
    assume(pairs)
    told_by = data.draw(st.integers(0, 3))
    used, chosen = [], data.draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=4))
    services = [
        PortRange(p.protocol, p.low, p.low) for p in data.draw(st.sets(st.sampled_from(wide.ports), min_size=1))
    ]
    for source, destination in chosen:
        for port in services:
            both = Used(source.host_tags, source.workload, destination.host_tags, destination.workload, port)
            ends = [replace(both, destination_workload=""), replace(both, source_workload="")]
            used += [ends, ends[:1], ends[1:], [both]][told_by]
    found = Ruler(SHOP, fleet(*(FLEET.hosts[name] for name in enrolled))).measure(wide, used)
    assert found is not None
    assert 0 < found.left <= found.permitted
    assert all(permits(found.narrower, *pair, port) for pair in chosen for port in services)
    for a in everyone:
        for b in everyone:
            assert permits(wide, a, b, wide.ports[0]) or not any(permits(found.narrower, a, b, p) for p in PORTS)
    assert all(any(p.covers(n) for p in wide.ports) for n in found.narrower.ports)
