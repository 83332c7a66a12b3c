from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from segctl.model.findings import Severity
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Policy, PortRange, Rule, Selector, Tags
from segctl.policy.check import check_policy
from segctl.policy.codes import CODES
from segctl.policy.parse import parse_policy

from tests.policies import example_sources, policy
from tests.shop import fleet, host
from tests.strategies import fleets

TODAY = datetime(2026, 11, 22, tzinfo=UTC)
RULE = "owner: o, why: w"
SHOP_LAB = Inventory(
    {
        name: Host(name, Tags.of(tags), tuple(map(ip_address, addresses)))
        for name, tags, *addresses in (
            ("web1", {"app": "shop", "role": "web", "env": "prod"}, "10.77.1.11", "fd77:0:1::11"),
            ("api1", {"app": "shop", "role": "api", "env": "prod"}, "10.77.2.11", "fd77:0:2::11"),
            ("db1", {"app": "shop", "role": "db", "env": "prod"}, "10.77.3.11", "fd77:0:3::11"),
            ("bastion1", {"role": "bastion", "env": "prod"}, "10.77.4.11", "fd77:0:4::11"),
            ("dev1", {"app": "shop", "role": "web", "env": "dev"}, "10.77.9.11", "fd77:0:9::11"),
        )
    }
)


def rules(*lines: str) -> str:
    return "rules:\n" + "".join(f"  - {{{line}, {RULE}}}\n" for line in lines)


def codes(p: Policy, inventory: Inventory | None = None) -> list[str]:
    """The codes of the findings, but for what VOCABULARY alone brings with it."""
    found = check_policy(p, inventory, TODAY)
    return [f.code for f in found if not f.code.startswith("unused") and f.code != "mode-missing"]


def test_the_example_is_clean_with_and_without_its_hosts() -> None:
    shop = parse_policy(example_sources()).policy
    assert shop is not None
    assert check_policy(shop, None, TODAY) == ()
    assert check_policy(shop, SHOP_LAB, TODAY, [ip_address("10.77.0.10")]) == ()


def test_before_the_first_host_nothing_is_said_of_hosts() -> None:
    shop = parse_policy(example_sources()).policy
    assert shop is not None
    assert check_policy(shop, Inventory(), TODAY) == ()


def test_a_broken_test_is_an_error() -> None:
    p = policy("tests: [{from: {env: dev}, to: {env: prod}, allow: [ssh]}]")
    (finding,) = (f for f in check_policy(p, None, TODAY) if f.code == "test-failed")
    assert (finding.severity, finding.position.line) == (Severity.ERROR, 2)


class TestSelectors:
    def test_a_contradiction_never_matches(self) -> None:
        p = policy(rules("name: r, from: {workload: shop-db, role: web}, to: {role: db}, allow: [ssh]"))
        assert codes(p) == ["selector-empty"]

    def test_a_contradiction_in_a_test_is_found_too(self) -> None:
        p = policy("tests: [{from: {workload: shop-db, role: web}, to: {role: db}, deny: [ssh]}]")
        assert codes(p) == ["selector-empty"]

    def test_what_no_host_carries_is_found_with_the_inventory(self) -> None:
        p = policy(rules("name: r, from: {role: web}, to: {workload: shop-db}, allow: [ssh]"))
        web, db = host("w", role="web", app="shop"), host("d", role="db", app="shop")
        assert codes(p) == []
        assert codes(p, fleet(web, db)) == []
        assert codes(p, fleet(web)) == ["selector-empty"]
        assert codes(p, fleet(host("d", role="db"), web)) == ["selector-empty"]

    def test_tags_of_a_workload_count(self) -> None:
        text = "workloads: {w: {on: {role: web}, tags: {env: dev}, process: {user: a}}}\n"
        p = policy(text + rules("name: r, from: {env: dev, role: web}, to: {role: web}, allow: [ssh]"))
        assert codes(p, fleet(host("h", role="web", env="prod"))) == []
        assert codes(p, fleet(host("h", role="db"), host("i", role="web"))) == []
        assert codes(p, fleet(host("h", role="db"))) == ["selector-empty", "selector-empty"]

    def test_within_that_cannot_hold(self) -> None:
        line = "name: r, from: {env: dev, role: web}, to: {env: prod}, within: [env], allow: [ssh]"
        assert codes(policy(rules(line))) == ["rule-never"]


class TestCoverage:
    @pytest.mark.parametrize(
        ("wide", "narrow"),
        [
            ("from: {}, to: {role: db}, allow: [ssh]", "from: {role: web}, to: {workload: shop-db}, allow: [ssh]"),
            ("from: {}, to: {role: db}, allow: [tcp/20-30]", "from: {}, to: {role: db, env: dev}, allow: [ssh]"),
            ("from: {peer: any}, to: {role: db}, allow: [ssh]", "from: {peer: office}, to: {role: db}, allow: [ssh]"),
            ("from: {peer: big}, to: {role: db}, allow: [ssh]", "from: {peer: office}, to: {role: db}, allow: [ssh]"),
            (
                "from: {}, to: {role: db}, within: [env], allow: [ssh]",
                "from: {}, to: {role: db}, within: [env, app], allow: [ssh]",
            ),
            (
                "from: {}, to: {role: db}, within: [env], allow: [ssh]",
                "from: {env: dev}, to: {role: db, env: dev}, allow: [ssh]",
            ),
            (
                "from: {}, to: {role: db}, allow: [ssh], expires: 2027-06-01",
                "from: {}, to: {role: db}, allow: [ssh], expires: 2027-05-01",
            ),
            ("from: {}, to: {role: db}, allow: [icmp]", "from: {}, to: {role: db}, allow: [icmp/echo-request]"),
        ],
    )
    def test_the_narrow_rule_is_shadowed_and_not_the_wide(self, wide: str, narrow: str) -> None:
        peers = 'peers: {big: [203.0.112.0/21, "2001:db8::/32"]}\n'
        for lines in (
            (f"name: wide, {wide}", f"name: narrow, {narrow}"),
            (f"name: narrow, {narrow}", f"name: wide, {wide}"),
        ):
            found = check_policy(policy(peers + rules(*lines)), None, TODAY)
            assert [f.message.split(":")[0] for f in found if f.code == "rule-shadowed"] == ["rule narrow adds nothing"]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("from: {role: web}, to: {role: db}, allow: [ssh]", "from: {role: web}, to: {env: dev}, allow: [ssh]"),
            ("from: {role: web}, to: {role: db}, allow: [ssh]", "from: {role: web}, to: {role: db}, allow: [postgres]"),
            ("from: {peer: any}, to: {role: db}, allow: [ssh]", "from: {env: dev}, to: {role: db}, allow: [ssh]"),
            (
                "from: {}, to: {role: db}, within: [env], allow: [ssh]",
                "from: {}, to: {role: db}, within: [app], allow: [ssh]",
            ),
            (
                "from: {workload: host}, to: {role: db}, allow: [ssh]",
                "from: {workload: shop-web}, to: {role: db}, allow: [ssh]",
            ),
            (
                "from: {}, to: {role: db}, allow: [ssh], expires: 2027-05-01",
                "from: {role: web}, to: {role: db}, allow: [ssh]",
            ),
        ],
    )
    def test_rules_that_differ_stand_side_by_side(self, one: str, other: str) -> None:
        assert codes(policy(rules(f"name: a, {one}", f"name: b, {other}"))) == []

    def test_a_duplicate_is_reported_at_the_later_rule(self) -> None:
        same = "from: {role: web}, to: {role: db}"
        p = policy(rules(f"name: a, {same}, allow: [ssh]", f"name: b, {same}, allow: [tcp/22]"))
        (finding,) = (f for f in check_policy(p, None, TODAY) if f.code.startswith("rule"))
        assert (finding.code, finding.position.line) == ("rule-duplicate", 4)

    def test_an_expired_rule_shadows_nothing(self) -> None:
        old = "name: a, from: {}, to: {role: db}, allow: [ssh], expires: 2026-11-21"
        assert codes(policy(rules(old, "name: b, from: {role: web}, to: {role: db}, allow: [ssh]"))) == ["rule-expired"]


class TestBoundaries:
    BOUNDARY = "boundaries: [{name: b, from: {env: dev}, to: {env: prod}}]\n"

    def test_wholly_cut(self) -> None:
        line = "name: r, from: {env: dev, role: web}, to: {workload: shop-db, env: prod}, allow: [ssh]"
        assert codes(policy(self.BOUNDARY + rules(line))) == ["rule-cut"]

    def test_partly_cut(self) -> None:
        assert codes(policy(self.BOUNDARY + rules("name: r, from: {role: web}, to: {role: db}, allow: [ssh]"))) == [
            "rule-narrowed"
        ]

    def test_within_keeps_out_of_the_boundary(self) -> None:
        line = "name: r, from: {role: web}, to: {role: db}, within: [env], allow: [ssh]"
        assert codes(policy(self.BOUNDARY + rules(line))) == []

    def test_boundaries_of_peers(self) -> None:
        boundary = "boundaries: [{name: b, from: {role: db}, to: {peer: any}}]\n"
        web = "name: r, from: {role: web}, to: {peer: office}, allow: [ssh]"
        db = "name: r, from: {workload: shop-db}, to: {peer: office}, allow: [ssh]"
        both = "name: r, from: {app: shop}, to: {peer: office}, allow: [ssh]"
        assert codes(policy(boundary + rules(web))) == []
        assert codes(policy(boundary + rules(db))) == ["rule-cut"]
        assert codes(policy(boundary + rules(both))) == ["rule-narrowed"]


class TestHygiene:
    @pytest.mark.parametrize(
        "line",
        [
            "name: r, from: {}, to: {}, allow: [ssh]",
            "name: r, from: {role: web}, to: {role: db}, allow: [any]",
            "name: r, from: {role: web}, to: {peer: any}, allow: [any]",
            "name: r, from: {role: web}, to: {role: db}, allow: [tcp/1-40000, tcp/40001-65535]",
        ],
    )
    def test_rules_that_allow_everything(self, line: str) -> None:
        assert codes(policy(rules(line))) == ["rule-everything"]

    @pytest.mark.parametrize(
        ("dates", "expected"),
        [
            ("expires: 2026-11-21", ["rule-expired"]),
            ("expires: 2026-11-22", ["rule-expires"]),
            ("expires: 2026-12-22", ["rule-expires"]),
            ("expires: 2026-12-23", []),
            ("expires: 2026-11-22T00:00Z", ["rule-expired"]),
            ("expires: 2026-11-22T00:01Z", ["rule-expires"]),
            ("expires: 2026-12-23T00:00Z", ["rule-expires"]),
            ("expires: 2026-12-23T00:01Z", []),
            ("review: 2026-11-01", ["review-due"]),
            ("review: 2026-12-22", ["review-due"]),
            ("review: 2026-12-23", []),
            ("review: 2026-11-01, expires: 2026-11-21", ["rule-expired"]),
        ],
    )
    def test_dates(self, dates: str, expected: list[str]) -> None:
        assert (
            codes(policy(rules(f"name: r, from: {{role: web}}, to: {{role: db}}, allow: [ssh], {dates}"))) == expected
        )

    def test_what_nothing_uses(self) -> None:
        found = check_policy(policy("modes: [{select: {}, mode: observe}]"), None, TODAY)
        assert [f.code for f in found] == [
            *("unused-service", "unused-service", "unused-peer", "unused-workload", "unused-workload")
        ]
        assert [f.position.line for f in found] == [7, 8, 10, 12, 13]

    def test_a_rescue_service_is_used(self) -> None:
        found = check_policy(policy("essentials: {rescue: {from: [10.0.0.1], allow: [ssh]}}"), None, TODAY)
        assert ["ssh" in f.message for f in found if f.code == "unused-service"] == [False]


class TestWorkloads:
    @pytest.mark.parametrize(
        ("one", "other", "rivals"),
        [
            ("{on: {}, process: {unit: a.service}}", "{on: {role: web}, process: {unit: a.service}}", True),
            ("{on: {}, process: {executable: /bin/a}}", "{on: {}, process: {executable: /bin/a}}", True),
            ("{on: {}, process: {executable: /bin/a}}", "{on: {}, process: {executable: /bin/b}}", False),
            ("{on: {role: db}, process: {unit: a.service}}", "{on: {role: web}, process: {unit: a.service}}", False),
            ("{on: {}, process: {unit: a.service}}", "{on: {}, process: {unit: b.service}}", False),
            ('{on: {}, process: {unit: "a*.service"}}', '{on: {}, process: {unit: "*b.service"}}', True),
            ('{on: {}, process: {unit: "a*.service"}}', '{on: {}, process: {unit: "b*.service"}}', False),
            ('{on: {}, process: {unit: "a*.service"}}', '{on: {}, process: {unit: "a.service"}}', False),
            ('{on: {}, process: {unit: "a*.service"}}', '{on: {}, process: {unit: "ab*.service"}}', False),
            ('{on: {}, process: {cgroup: "a/*"}}', '{on: {}, process: {cgroup: "*/b"}}', True),
            ('{on: {}, process: {cgroup: "x/*"}}', '{on: {}, process: {cgroup: "y/*"}}', False),
            ("{on: {}, process: {user: a}}", "{on: {}, process: {user: a}}", True),
            ("{on: {}, process: {user: a}}", "{on: {}, process: {unit: a.service}}", False),
            ("{on: {}, process: {group: a}}", "{on: {}, process: {group: a}}", True),
            ("{on: {}, process: {group: a}}", "{on: {}, process: {user: a}}", False),
            ('{on: {}, process: {unit: "a-*.slice"}}', '{on: {}, process: {unit: "*-b.slice"}}', True),
        ],
    )
    def test_rivals_for_one_process(self, one: str, other: str, rivals: bool) -> None:
        found = codes(policy(f"workloads:\n  one: {one}\n  other: {other}\n"))
        assert found == (["workload-overlap"] if rivals else [])

    @pytest.mark.parametrize(("kind", "found"), [("group", ["group-incoming"]), ("user", [])])
    def test_nothing_listens_as_a_group(self, kind: str, found: list[str]) -> None:
        workload = f"workloads:\n  adm: {{on: {{}}, process: {{{kind}: adm}}}}\n"
        text = workload + rules("name: r, from: {role: web}, to: {workload: adm}, allow: [tcp/22]")
        assert [c for c in codes(policy(text)) if c == "group-incoming"] == found


class TestHosts:
    def test_hosts_without_a_mode(self) -> None:
        p = policy("modes: [{select: {env: prod}, mode: test}, {select: {workload: shop-web}, mode: test}]")
        inventory = fleet(host("a", env="prod"), host("b", env="dev"), host("c", env="prod", role="web", app="shop"))
        (finding,) = (f for f in check_policy(p, inventory, TODAY) if f.code == "mode-missing")
        assert "1 host (b)" in finding.message

    def test_no_mode_at_all(self) -> None:
        assert "mode-missing" in {f.code for f in check_policy(policy(), None, TODAY)}

    def test_a_peer_over_hosts(self) -> None:
        inside = fleet(host("a", "203.0.113.7"), host("b", "2001:db8:40::7"), host("c", "203.0.114.1", "2001:db8:41::"))
        (finding,) = (f for f in check_policy(policy(), inside, TODAY) if f.code == "peer-covers-hosts")
        assert "2 hosts (a, b)" in finding.message
        assert "peer-covers-hosts" not in {
            f.code for f in check_policy(policy(), fleet(host("c", "203.0.112.255")), TODAY)
        }


class TestAccess:
    ENFORCE = "modes: [{select: {env: prod}, mode: enforce}]\nessentials: {dns: [10.0.0.53]}\n"
    RESCUE = (
        "modes: [{select: {env: prod}, mode: enforce}]\nessentials: {dns: [10.0.0.53], rescue: {from: [10.0.0.1]%s}}\n"
    )
    WAY_IN = "name: r, from: {peer: office}, to: {role: bastion}, allow: [ssh]"

    def test_nobody_could_log_in(self) -> None:
        p = policy(self.ENFORCE)
        found = check_policy(p, None, TODAY, [ip_address("10.9.9.9")])
        (finding,) = (f for f in found if f.severity is Severity.ERROR)
        assert finding.code == "lock-out"
        assert "10.9.9.9" in finding.hint
        assert codes(p) == ["lock-out"]  # that there is no rescue list is the same problem

    def test_a_rule_for_ssh_from_a_peer_is_a_way_in(self) -> None:
        assert codes(policy(self.ENFORCE + rules(self.WAY_IN))) == ["no-rescue"]

    @pytest.mark.parametrize(
        "line",
        [
            "name: r, from: {role: web}, to: {}, allow: [ssh]",
            "name: r, from: {peer: office}, to: {role: bastion, env: dev}, allow: [ssh]",
            "name: r, from: {peer: office}, to: {role: bastion}, allow: [postgres]",
            "name: r, from: {peer: office}, to: {role: bastion}, allow: [ssh], expires: 2026-01-01",
        ],
    )
    def test_these_are_no_ways_in(self, line: str) -> None:
        assert "lock-out" in codes(policy(self.ENFORCE + rules(line)))

    def test_a_way_in_that_a_boundary_closes(self) -> None:
        boundary = "boundaries: [{name: b, from: {peer: any}, to: {}}]\n"
        assert "lock-out" in codes(policy(self.ENFORCE + boundary + rules(self.WAY_IN)))

    def test_a_rescue_list_is_enough(self) -> None:
        assert codes(policy(self.RESCUE % "")) == []

    def test_a_rescue_list_without_tcp_is_none(self) -> None:
        assert codes(policy(self.RESCUE % ", allow: [icmp]")) == ["lock-out", "rescue-no-tcp"]

    def test_a_rescue_address_that_enforces_itself(self) -> None:
        p = policy(self.RESCUE % "")
        assert codes(p, fleet(host("a", "10.0.0.1", env="dev"), host("p", env="prod"))) == []
        assert codes(p, fleet(host("a", "10.0.0.1", env="prod"))) == ["lock-out", "rescue-held"]
        out = policy(self.RESCUE % "" + rules("name: r, from: {env: prod}, to: {env: dev}, allow: [ssh]"))
        assert codes(out, fleet(host("a", "10.0.0.1", env="prod"), host("d", env="dev"))) == []

    @pytest.mark.parametrize(
        ("rescue", "code"),
        [
            ("{from: [10.0.0.1], allow: [tcp/443]}", "rescue-no-ssh"),
            ("{from: [10.0.0.1], allow: [tcp/2222]}", "rescue-no-ssh"),
            ("{from: [127.0.0.1]}", "rescue-nowhere"),
            ('{from: ["::1", 224.0.0.0/4, 0.0.0.0]}', "rescue-nowhere"),
        ],
    )
    def test_a_rescue_list_through_which_nobody_can_log_in_is_none(self, rescue: str, code: str) -> None:
        text = f"modes: [{{select: {{}}, mode: enforce}}]\nessentials: {{dns: [10.0.0.53], rescue: {rescue}}}\n"
        assert set(codes(policy(text))) == {"lock-out", code}
        assert set(codes(policy(text + rules(self.WAY_IN)))) == {code}

    def test_sshd_may_listen_elsewhere(self) -> None:
        text = self.RESCUE % ", allow: [ssh-alt]" + "services: {ssh-alt: [tcp/2222]}\n"
        assert codes(policy(text)) == []

    def test_that_no_way_in_is_meant_must_be_said(self) -> None:
        text = "modes: [{select: {}, mode: enforce}]\nessentials: {dns: [10.0.0.53], rescue: none}\n"
        (finding,) = (f for f in check_policy(policy(text), None, TODAY) if f.code == "no-rescue")
        assert finding.severity is Severity.WARNING
        assert "rescue: none" in finding.message
        assert codes(policy(text), fleet(host("a", "10.0.0.2", env="prod"))) == ["no-rescue"]

    def test_a_way_in_that_ends_is_none(self) -> None:
        line = self.WAY_IN + ", expires: 2040-01-01"
        assert "lock-out" in codes(policy(self.ENFORCE + rules(line)))

    def test_every_host_that_enforces_has_a_way_in(self) -> None:
        way = self.ENFORCE + rules(self.WAY_IN)
        bastion, web = host("b", "10.0.0.2", env="prod", role="bastion"), host("w", "10.0.0.3", env="prod", role="web")
        assert codes(policy(way), fleet(bastion)) == ["no-rescue"]
        found = check_policy(policy(way), fleet(bastion, web), TODAY)
        (finding,) = (f for f in found if f.severity is Severity.ERROR)
        assert finding.code == "lock-out"
        assert finding.message.startswith("nobody could log in to w, which would enforce")
        assert finding.position.line > 0
        assert codes(policy(way), fleet(bastion, host("w", "10.0.0.3", env="dev"))) == ["no-rescue"]
        onward = rules(self.WAY_IN, "name: s, from: {role: bastion}, to: {env: prod}, allow: [ssh]")
        assert codes(policy(self.ENFORCE + onward), fleet(bastion, web)) == ["no-rescue"]
        cut = "boundaries: [{name: b, from: {role: bastion}, to: {role: web}}]\n"
        assert "lock-out" in codes(policy(self.ENFORCE + cut + onward), fleet(bastion, web))

    def test_a_rescue_address_reaches_hosts_of_its_family(self) -> None:
        p = policy(self.RESCUE % "")
        assert codes(p, fleet(host("a", "10.0.0.2", env="prod"), host("n", env="prod"))) == []
        assert codes(p, fleet(host("a", "2001:db8::2", env="prod"))) == ["lock-out"]
        assert codes(p, fleet(host("a", "2001:db8::2", "10.0.0.2", env="prod"))) == []

    def test_a_rescue_network_that_is_most_of_the_world(self) -> None:
        text = "modes: [{select: {}, mode: enforce}]\nessentials: {dns: [10.0.0.53], rescue: {from: [0.0.0.0/0]}}\n"
        assert codes(policy(text)) == ["rescue-wide"]

    def test_nothing_enforces_nothing_is_lost(self) -> None:
        assert codes(policy("modes: [{select: {}, mode: test}]")) == []

    def test_name_resolution(self) -> None:
        text = "modes: [{select: {}, mode: enforce}]\nessentials: {rescue: {from: [10.0.0.1]}}\n"
        assert codes(policy(text)) == ["no-dns"]
        assert codes(policy(text + rules("name: r, from: {}, to: {peer: office}, allow: [udp/53]"))) == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fleets())
def test_check_never_fails_and_knows_its_codes(given_fleet: tuple[Policy, Inventory]) -> None:
    p, inventory = given_fleet
    for finding in (*check_policy(p, inventory, TODAY), *check_policy(p, None, TODAY)):
        assert finding.code in CODES
        assert finding.hint
        assert str(finding).isprintable()


def test_five_thousand_rules_check_in_seconds() -> None:
    """Rules of one shape, so that an index that fails shows as 25 million comparisons."""
    p = policy("modes: [{select: {}, mode: observe}]")
    roles = [Selector(Tags.of({"role": f"r{i}", "env": "prod"})) for i in range(500)]
    many = tuple(
        Rule(f"r{i}", roles[i % 500], roles[(i * 7) % 500], (), (PortRange("tcp", i + 1, i + 1),), (), "o", "w")
        for i in range(5000)
    )
    started = time.monotonic()
    found = check_policy(replace(p, rules=many), None, TODAY)
    assert time.monotonic() - started < 5
    assert not [f for f in found if f.code.startswith("rule")]


def test_icmp_to_a_named_workload_never_arrives() -> None:
    line = "name: r, from: {role: bastion}, to: {workload: shop-db}, allow: [icmp/echo-request]"
    assert "icmp-to-workload" in codes(policy(rules(line)))
    assert "icmp-to-workload" not in codes(policy(rules(line.replace("workload: shop-db", "role: db"))))


def test_a_deny_test_sees_two_rules_that_meet() -> None:
    """web may call the rest of db1, and the rest of web1 may call the database, on one port."""
    text = """\
rules:
  - {name: a, from: {workload: shop-web}, to: {workload: host, role: db}, allow: [postgres], owner: o, why: w}
  - {name: b, from: {workload: host, role: web}, to: {workload: shop-db}, allow: [postgres], owner: o, why: w}
tests:
  - {from: {workload: shop-web}, to: {workload: shop-db}, deny: [postgres]}
"""
    shop = policy(text)
    one = fleet(host("web1", app="shop", role="web", env="prod"), host("db1", app="shop", role="db", env="prod"))
    met = [f for f in check_policy(shop, one, TODAY) if f.code == "test-failed"]
    assert [f.severity for f in met] == [Severity.ERROR]
    assert "two rules meet" in met[0].message
    apart = fleet(host("web1", app="shop", role="web", env="prod"))
    assert not [f for f in check_policy(shop, apart, TODAY) if f.code == "test-failed"]
