"""Whatever was observed: what a suggestion must do, and must never do."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.findings import Severity
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Tags
from segctl.policy.check import check_policy
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.suggest.addition import joined
from segctl.suggest.identify import Identifier, Kind
from segctl.suggest.observed import Observation, ObservedEnd
from segctl.suggest.standing import Place, Standing
from segctl.suggest.text import document

from tests.unit.segctl.suggest.observing import DAYS, NOW, VOCABULARY, end, policy_of, seen, suggested

GROUPS = [
    {"app": app, "env": env, "role": role}
    for app in ("shop", "crm")
    for env in ("prod", "dev")
    for role in ("web", "db")
]
FLEET = Inventory({f"h{n}": Host(f"h{n}", Tags.of(GROUPS[n % len(GROUPS)])) for n in range(12)})
CALLERS = ("unit:nginx.service", "unit:cron.service", "")
LISTENERS = {5432: "unit:postgresql@15-main.service", 8080: "unit:api.service"}
HOST_RULE = "from: {workload: host, role: web}, to: {role: db}"
STATEMENTS = st.lists(
    st.sampled_from(
        (
            "boundaries: [{name: b, from: {env: dev}, to: {env: prod}}]",
            "tests: [{from: {role: web, app: crm}, to: {app: shop}, deny: [tcp/5432]}]",
            "modes: [{select: {}, mode: test}]",
            f"rules: [{{name: r, {HOST_RULE}, within: [app], allow: [tcp/8080], owner: o, why: w}}]",
            "workloads: {pg: {on: {role: db}, process: {unit: postgresql@15-main.service}}}",
        )
    ),
    unique=True,
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    source, destination = (draw(st.sampled_from(GROUPS)) for _ in range(2))
    port = draw(st.sampled_from(sorted(LISTENERS)))
    days = draw(st.one_of(st.just(range(DAYS)), st.sets(st.integers(0, DAYS - 1), min_size=1, max_size=4)))
    near, far = end(draw(st.sampled_from(CALLERS)), **source), end(LISTENERS[port], **destination)
    denied = draw(st.sampled_from((0, 0, 0, 0, 5)))
    return seen(near, far, PortRange("tcp", port, port), days, draw(st.integers(1, 2)), denied)


def place(policy: Policy, one: ObservedEnd) -> Place:
    who = Identifier(policy, ()).who(one)
    assert not isinstance(who, str)
    return Place(one.tags, who.name if who.kind is Kind.WORKLOAD else HOST_WORKLOAD)


def permits(policy: Policy, one: Observation) -> bool:
    standing = Standing(policy, NOW)
    return standing.permits(place(policy, one.source), place(policy, one.destination), one.service)


@settings(deadline=None, max_examples=80)
@given(st.lists(observations(), min_size=1, max_size=25), STATEMENTS)
def test_invariants(observed: list[Observation], statements: list[str]) -> None:
    policy = policy_of("\n".join([VOCABULARY + "essentials: {rescue: none}", *statements]))
    found = suggested(*observed, inventory=FLEET, policy=policy)
    after = joined(policy, found.addition)

    # Everything is accounted for, once.
    explained = sum(obs.flows for one in found.suggestions for obs in set(one.explains))
    assert explained + sum(one.flows for one in found.left_out) + found.permitted >= sum(o.flows for o in set(observed))

    # What it explains is permitted then, and what was permitted stays so.
    for one in found.suggestions:
        assert all(permits(after, obs) for obs in one.explains if obs.source.process), document([one])
    assert all(permits(after, obs) for obs in observed if permits(policy, obs))

    # What was denied, or lies across a boundary, is not.
    for obs in observed:
        if not permits(policy, obs) and obs.source.process:
            crossing = (
                "boundaries" in str(statements)
                and "dev" in str(obs.source.tags)
                and "prod" in str(obs.destination.tags)
            )
            assert not ((obs.denied or crossing) and permits(after, obs)), document(found.suggestions)

    # It stands beside the policy, and names no host.
    text = document(found.suggestions)
    parsed = parse_policy((SourceFile("new.yaml", text.encode()), *_source(policy)))
    assert parsed.policy is not None, (text, parsed.findings)
    before = {f.message for f in check_policy(policy, FLEET, NOW)}
    errors = [f for f in check_policy(parsed.policy, FLEET, NOW) if f.severity is Severity.ERROR]
    assert [f for f in errors if f.message not in before] == []
    assert not any(name in text.split() for name in FLEET.hosts)


def _source(policy: Policy) -> tuple[SourceFile, ...]:
    from segctl.policy.render import render_policy

    return (SourceFile("policy.yaml", render_policy(policy).encode()),)
