"""What an owner may change: the rules of what is inside, and no permission towards anything outside."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Selector, Tags
from segctl.policy.decide import Instance, decide_end, effective_mode, instances
from segctl.policy.parse import parse_policy
from segctl.policy.scope import find_outside_scope

from tests import strategies
from tests.policies import source

SHOP = Tags.of({"app": "shop"})
MOST = int(os.environ.get("SEGCTL_SCOPE_EXAMPLES", "120"))
NOW = datetime(2026, 11, 28, tzinfo=UTC)

BASE = """\
version: 1
tags: {app: [shop, crm, ops], role: [web, db], env: [dev, prod]}
services: {pg: [tcp/5432], web: [tcp/80]}
peers: {office: [203.0.113.0/24]}
workloads:
  shop-web: {on: {app: shop, role: web}, process: {unit: nginx.service}}
  shop-db: {on: {app: shop, role: db}, process: {unit: postgresql.service}}
  crm-api: {on: {app: crm}, process: {unit: crm.service}}
modes:
  - {select: {env: prod}, mode: enforce}
  - {select: {app: shop, env: dev}, mode: test}
boundaries:
  - {name: dev-out, from: {env: dev}, to: {env: prod}}
rules:
  - {name: shop-in, from: {app: crm}, to: {workload: shop-db}, allow: [pg], owner: shop, why: orders}
  - {name: crm-in, from: {app: shop}, to: {app: crm}, allow: [web], owner: crm, why: customers}
  - {name: all-web, from: {role: web}, to: {role: db}, within: [app], allow: [pg], owner: ops, why: store}
tests:
  - {from: {env: dev}, to: {app: shop, env: prod}, deny: [pg]}
  - {from: {app: crm, env: prod}, to: {workload: shop-db, env: prod}, allow: [pg]}
essentials: {dns: [192.0.2.53], rescue: {from: [198.51.100.7]}}
"""


def policy(text: str) -> Policy:
    result = parse_policy([source(text)])
    assert result.policy is not None, result.findings
    return result.policy


def changed(*edits: tuple[str, str], base: str = BASE) -> list[str]:
    """The messages that the owner of app=shop gets for these edits of the text."""
    after = base
    for old, new in edits:
        assert old in after, old
        after = after.replace(old, new, 1)
    return [str(f) for f in find_outside_scope(policy(base), policy(after), (SHOP,))]


def rule(name: str, ends: str, more: str = "") -> tuple[str, str]:
    return "rules:\n", f"rules:\n  - {{name: {name}, {ends}, allow: [web], owner: me, why: work{more}}}\n"


INSIDE = {
    "a rule to a workload inside": [rule("n", "from: {app: crm}, to: {workload: shop-web}")],
    "a rule to tags inside": [rule("n", "from: {peer: office}, to: {app: shop, env: prod}")],
    "a rule within the app, from inside": [rule("n", "from: {app: shop}, to: {role: db}, within: [app]")],
    "a rule inside goes": [
        ("  - {name: shop-in, from: {app: crm}, to: {workload: shop-db}, allow: [pg], owner: shop, why: orders}\n", ""),
        ("  - {from: {app: crm, env: prod}, to: {workload: shop-db, env: prod}, allow: [pg]}\n", ""),
    ],
    "a rule inside changes": [("why: orders", "why: orders, expires: 2027-01-01")],
    "statements change their places": [
        ("  - {name: crm-in, from: {app: shop}, to: {app: crm}, allow: [web], owner: crm, why: customers}\n", ""),
        (
            "rules:\n",
            "rules:\n  - {name: crm-in, from: {app: shop}, to: {app: crm}, allow: [web], owner: crm, why: customers}\n",
        ),
    ],
    "a stricter mode": [("modes:\n", "modes:\n  - {select: {app: shop}, mode: enforce}\n")],
    "a mode is made stricter": [("env: dev}, mode: test", "env: dev}, mode: enforce")],
    "a test comes": [("tests:\n", "tests:\n  - {from: {app: ops}, to: {app: shop}, deny: [pg]}\n")],
    "a service and a peer come": [
        ("pg: [tcp/5432]", "pg: [tcp/5432], mine: [tcp/9000]"),
        ("203.0.113.0/24]", "203.0.113.0/24], partner: [198.51.100.0/24]"),
    ],
    "a workload comes": [
        ("workloads:\n", "workloads:\n  shop-job: {on: {app: shop}, process: {unit: job.service}}\n"),
        rule("n", "from: {app: crm}, to: {workload: shop-job}"),
    ],
    "a workload changes that no rule to the outside names": [("nginx.service", "nginx*.service")],
    "nothing": [],
}


@pytest.mark.parametrize("edits", INSIDE.values(), ids=INSIDE)
def test_what_an_owner_may_change(edits: list[tuple[str, str]]) -> None:
    assert changed(*edits) == []


OUTSIDE = {
    "a rule to another app": (
        [rule("n", "from: {app: shop}, to: {app: crm}")],
        "p.yaml:15:5: error: rule n comes, and can open",
    ),
    "a rule to tags that others carry": ([rule("n", "from: {app: shop}, to: {env: prod}")], "rule n comes"),
    "a rule to everything": ([rule("n", "from: {app: shop}, to: {}")], "rule n comes"),
    "a rule to a peer": ([rule("n", "from: {app: shop}, to: {peer: office}")], "can open what is outside: peer office"),
    "a rule within another tag": ([rule("n", "from: {app: shop}, to: {role: db}, within: [env]")], "rule n comes"),
    "a rule within the app, from anywhere": ([rule("n", "from: {role: web}, to: {role: db}, within: [app]")], "rule n"),
    "another's rule goes": (
        [("  - {name: crm-in, from: {app: shop}, to: {app: crm}, allow: [web], owner: crm, why: customers}\n", "")],
        "rule crm-in goes (in force from p.yaml:16:5), and can open what is outside: app=crm",
    ),
    "another's rule is renamed": ([("name: crm-in", "name: crm-in2")], "rule crm-in2 comes"),
    "another's rule is drawn inside": (
        [("to: {app: crm}", "to: {app: shop}")],
        "rule crm-in changes, and can open what is outside: app=crm",
    ),
    "another's rule gets another end": ([("why: customers", "why: customers, expires: 2027-01-01")], "rule crm-in"),
    "another's rule gets another owner": ([("owner: crm", "owner: me")], "rule crm-in"),
    "a service changes that others use": ([("web: [tcp/80]", "web: [tcp/1-65535]")], "service web"),
    "a service changes that only we use": ([("pg: [tcp/5432]", "pg: [tcp/5433]")], "service pg"),
    "a peer changes": ([("203.0.113.0/24", "0.0.0.0/0")], "peer office is of the whole fleet, and changes"),
    "a boundary goes": (
        [("boundaries:\n  - {name: dev-out, from: {env: dev}, to: {env: prod}}\n", "")],
        "boundary dev-out is of the whole fleet, and goes (in force from p.yaml:13:5)",
    ),
    "a boundary comes, inside": (
        [("boundaries:\n", "boundaries:\n  - {name: b, from: {app: crm}, to: {app: shop}}\n")],
        "boundary b",
    ),
    "a fleet-wide mode goes": (
        [("  - {select: {env: prod}, mode: enforce}\n", "")],
        "mode enforce of env=prod goes (in force from p.yaml:10:5), which is not inside",
    ),
    "a mode inside is made weaker": (
        [("env: dev}, mode: test", "env: dev}, mode: observe")],
        "mode test of app=shop,env=dev goes (in force from p.yaml:11:5), and no mode as strict is left",
    ),
    "a mode inside goes": (
        [("  - {select: {app: shop, env: dev}, mode: test}\n", "")],
        "mode test of app=shop,env=dev goes (in force from p.yaml:11:5), and no mode as strict is left",
    ),
    "a mode for others comes": (
        [("modes:\n", "modes:\n  - {select: {role: web}, mode: enforce}\n")],
        "mode enforce of role=web comes, which is not inside",
    ),
    "a deny test goes": (
        [("  - {from: {env: dev}, to: {app: shop, env: prod}, deny: [pg]}\n", "")],
        "what it denies must stay denied",
    ),
    "a test about others comes": (
        [("tests:\n", "tests:\n  - {from: {app: shop}, to: {app: ops}, deny: [pg]}\n")],
        "the test app=shop -> app=ops",
    ),
    "a test changes its verdict": ([("env: prod}, deny: [pg]", "env: prod}, deny: [web]")], "must stay denied"),
    "a tag value comes": ([("app: [shop, crm, ops]", "app: [shop, crm, ops, new]")], "the values of the tag app"),
    "the rescue list changes": ([("198.51.100.7", "198.51.100.8")], "the essentials"),
    "the rescue list goes": ([("rescue: {from: [198.51.100.7]}", "rescue: none")], "the essentials"),
    "a workload of others changes": (
        [("crm.service", "x.service")],
        "workload crm-api changes, and is not on hosts inside",
    ),
    "a workload goes over to others": ([("{app: shop, role: web}", "{role: web}")], "workload shop-web changes"),
    "a workload of others goes": (
        [("  crm-api: {on: {app: crm}, process: {unit: crm.service}}\n", "")],
        "workload crm-api goes",
    ),
    "a workload comes with tags of its own": (
        [("workloads:\n", "workloads:\n  w: {on: {app: shop}, process: {unit: w.service}, tags: {role: db}}\n")],
        "which has tags of its own",
    ),
    "a workload steals the scope": (
        [("workloads:\n", "workloads:\n  w: {on: {role: web}, process: {unit: w.service}, tags: {app: shop}}\n")],
        "no scope by app can hold",
    ),
}


@pytest.mark.parametrize(("edits", "words"), OUTSIDE.values(), ids=OUTSIDE)
def test_what_an_owner_may_not_change(edits: list[tuple[str, str]], words: str) -> None:
    found = changed(*edits)
    assert any(words in message for message in found), found
    assert all("the scope is app=shop: ask an editor" in message for message in found)


LEANING = {
    "a boundary": ("boundaries:\n", "boundaries:\n  - {name: b, from: {workload: shop-web}, to: {app: ops}}\n"),
    "a mode": ("modes:\n", "modes:\n  - {select: {workload: shop-web}, mode: enforce}\n"),
    "a mode of the rest": ("modes:\n", "modes:\n  - {select: {workload: host, env: prod}, mode: enforce}\n"),
    "a deny test": ("tests:\n", "tests:\n  - {from: {workload: shop-web}, to: {app: ops}, deny: [pg]}\n"),
}
NEW_WORKLOAD = ("workloads:\n", "workloads:\n  w: {on: {app: shop}, process: {unit: nginx-2.service}}\n")


@pytest.mark.parametrize("leaning", LEANING.values(), ids=LEANING)
def test_processes_are_not_slipped_past_what_tells_them_apart(leaning: tuple[str, str]) -> None:
    base = BASE.replace(*leaning, 1)
    for edit in (NEW_WORKLOAD, ("nginx.service", "other.service")):
        (message,) = changed(edit, base=base)
        assert "tells processes inside apart by their workload" in message


def test_processes_are_not_slipped_into_anothers_rule() -> None:
    base = BASE.replace("from: {app: shop}, to: {app: crm}", "from: {workload: shop-web}, to: {app: crm}")
    (message,) = changed(("nginx.service", "nginx*.service"), base=base)
    assert "workload shop-web changes, and rule crm-in (p.yaml:16:5) tells processes inside apart" in message
    assert changed(NEW_WORKLOAD, base=base) == []  # which can only lose what shop-web may


def test_a_scope_of_two_tags_needs_both() -> None:
    before = policy(BASE)
    for ends, good in (("to: {app: shop, env: dev}", True), ("to: {app: shop}", False)):
        after = policy(BASE.replace(*rule("n", f"from: {{app: crm}}, {ends}"), 1))
        found = find_outside_scope(before, after, [Tags.of({"app": "shop", "env": "dev"})])
        assert (found == ()) is good


# What is accepted changes nothing for anybody else, whatever the policy, the edit and the fleet.


@st.composite
def edited(draw: st.DrawFn) -> tuple[Policy, Policy, Inventory, Tags]:
    base, inventory = draw(strategies.fleets())
    declared = strategies._Declared(dict(base.tags), dict(base.services), dict(base.peers), dict(base.workloads))
    key = draw(st.sampled_from(sorted(base.tags)))
    scope = Tags.of({key: draw(st.sampled_from(base.tags[key]))})
    # Where every host is mixed nothing is ever accepted.
    kept = {n: replace(w, tags=Tags.of(p for p in w.tags.pairs if p[0] != key)) for n, w in base.workloads.items()}
    base = after = replace(base, workloads=kept)

    def drawn_in(selector: Selector) -> Selector:
        return replace(selector, tags=selector.tags.merged(scope)) if selector.peer is None else selector

    for _ in range(draw(st.integers(1, 3))):
        inside = draw(st.integers(0, 3)) > 0
        match draw(
            st.sampled_from(
                ("rule", "rule", "rule", "no rule", "mode", "no mode", "test", "workload", "workload", "else")
            )
        ):
            case "rule":
                taken = {r.name for r in after.rules}
                new = draw(strategies._rule(f"new{len(taken)}", declared))
                new = replace(new, destination=drawn_in(new.destination)) if inside else new
                after = replace(after, rules=(*after.rules, new))
            case "no rule":
                after = replace(after, rules=draw(st.permutations(after.rules))[1:])
            case "mode":
                mode = draw(declared.modes())
                mode = replace(mode, select=drawn_in(mode.select)) if inside else mode
                after = replace(after, modes=(*after.modes, mode))
            case "no mode":
                after = replace(after, modes=after.modes[1:])
            case "test":
                after = replace(after, tests=after.tests[1:])
            case "workload":
                name = draw(st.sampled_from(("w", *after.workloads)))
                gone = draw(st.booleans()) and name in after.workloads
                more = {n: w for n, w in after.workloads.items() if n != name}
                if not gone:
                    on, process = draw(declared.some_tags()), draw(strategies.processes)
                    own = after.workloads[name].tags if name in after.workloads else Tags()
                    more[name] = strategies.Workload(name, on.merged(scope) if inside else on, process, own)
                after = replace(after, workloads=more)
            case _:
                other = draw(strategies.policies())
                part = draw(st.sampled_from(("boundaries", "essentials", "services", "peers")))
                after = replace(after, **{part: getattr(other, part)})
    # Only what parses is ever compared: a name that is used is declared.
    used = [s for r in (*after.rules, *after.boundaries, *after.tests) for s in (r.source, r.destination)]
    used += [m.select for m in after.modes]
    assume(all(s.workload in (None, HOST_WORKLOAD, *after.workloads) for s in used))
    assume(all(s.peer in (None, "any", *after.peers) for s in used))
    return base, after, inventory, scope


PORTS = [PortRange("tcp", p, p) for p in (22, 80, 85, 5432)] + [PortRange("udp", 53, 53), PortRange("icmp", 8, 8)]


def reached(policy: Policy, host: Host, inventory: Inventory, outside: list[Host]) -> dict[str, set[object]]:
    """By workload of `host`: which port to whom outside its own end lets through, and what lets it in there."""
    strangers = [ip_address(a) for a in ("10.9.0.1", "10.9.0.200", "8.8.8.8", "fd09::7")]
    strangers = [a for a in strangers if inventory.holder(a) is None]
    mine = instances(policy, host)
    found: dict[str, set[object]] = {}
    for local in mine:
        rights = found.setdefault(local.workload, set())
        for other in outside:
            theirs = instances(policy, other)
            for port in PORTS:
                if decide_end(policy, "egress", local, theirs, port, NOW).allowed:
                    rights.add((other.name, port))
                if local.workload == HOST_WORKLOAD:  # there, this host is one address
                    rights.update(
                        ("in", str(to), port)
                        for to in theirs
                        if decide_end(policy, "ingress", to, mine, port, NOW).allowed
                    )
        for address in strangers:
            rights.update(
                (str(address), p) for p in PORTS if decide_end(policy, "egress", local, address, p, NOW).allowed
            )
    return found


def strictness(policy: Policy, instance: Instance) -> int:
    return effective_mode(policy, instance).strictness


@settings(max_examples=MOST, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(edited())
def test_what_is_accepted_changes_no_permission_towards_anything_outside(
    drawn: tuple[Policy, Policy, Inventory, Tags],
) -> None:
    before, after, inventory, scope = drawn
    accepted = find_outside_scope(before, after, (scope,)) == ()
    event(f"accepted: {accepted}, changed: {before != after}")
    if not accepted:
        return
    hosts = list(inventory.hosts.values())
    outside = [h for h in hosts if not h.tags.includes(scope)]
    for host in hosts:
        was, will = reached(before, host, inventory, outside), reached(after, host, inventory, outside)
        modes = {i.workload: strictness(before, i) for i in instances(before, host)}
        now = {i.workload: strictness(after, i) for i in instances(after, host)}
        if host in outside:
            assert (was, modes) == (will, now)
            continue
        for name, rights in will.items():
            if name in was:
                assert rights == was[name], name
            else:  # its processes were some other workload's: it gains nothing that the rest of the host had not
                assert rights <= was[HOST_WORKLOAD], name
            assert now[name] >= modes.get(name, modes[HOST_WORKLOAD]), name


def test_why_a_host_may_not_be_inside_and_outside_at_once() -> None:
    """Each end knows the other by address: two rights that are fine by themselves meet on one host."""
    base = """\
version: 1
tags: {app: [shop, crm], role: [web, db]}
workloads:
  one: {on: {role: web}, process: {unit: one.service}}
  two: {on: {role: web}, process: {unit: two.service}}
  guest: {on: {role: db}, process: {unit: guest.service}, tags: {app: crm}}
rules:
  - {name: crm-in, from: {workload: two}, to: {app: crm}, allow: [tcp/5432], owner: crm, why: customers}
"""
    more = "  - {name: mine, from: {workload: one}, to: {app: shop}, allow: [tcp/5432], owner: shop, why: orders}\n"
    before, after = policy(base), policy(base + more)
    here, there = Host("s", Tags.of({"role": "web"})), Host("h", SHOP.merged(Tags.of({"role": "db"})))

    def passes(which: Policy) -> bool:
        mine, theirs = instances(which, here), instances(which, there)
        one, guest = (next(i for i in all_ if i.workload == n) for all_, n in ((mine, "one"), (theirs, "guest")))
        port = PortRange("tcp", 5432, 5432)
        return all(
            decide_end(which, direction, local, remote, port, NOW).allowed
            for direction, local, remote in (("egress", one, theirs), ("ingress", guest, mine))
        )

    assert (passes(before), passes(after)) == (False, True)
    assert any("workload guest has a tag app of its own" in str(f) for f in find_outside_scope(before, after, [SHOP]))
