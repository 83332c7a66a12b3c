"""Which program an end is."""

from __future__ import annotations

import pytest
from segctl.model.policy import Policy, ProcessKind
from segctl.suggest.identify import ANY_PROCESS, LOGINS, OUTSIDE, Identifier, Kind, Who
from segctl.suggest.observed import Observation, ObservedEnd

from tests.unit.segctl.suggest.observing import HTTPS, VOCABULARY, db, end, outside, policy_of, seen


def who(one: ObservedEnd, *others: Observation, policy: Policy | None = None) -> Who | str:
    return Identifier(policy or Policy(), (seen(one, db()), *others)).who(one)


@pytest.mark.parametrize(
    ("process", "name"),
    [
        ("unit:nginx.service", "unit:nginx.service"),
        ("unit:postgresql@15-main.service", "unit:postgresql@*.service"),
        ("unit:sshd@*.service", "unit:sshd@*.service"),
        ("container:shop-web", "container:shop-web"),
        ("user:backup", "user:backup"),
        ("exe:/usr/bin/psql", str(LOGINS)),
    ],
)
def test_processes(process: str, name: str) -> None:
    found = who(end(process, role="web"))
    assert isinstance(found, Who)
    assert (found.kind, found.name) == (Kind.PROCESS, name)


def test_ends_without_a_process() -> None:
    assert who(end("", role="web")) == ANY_PROCESS
    assert who(outside("192.0.2.1")) == OUTSIDE
    assert "no name" in str(who(end("unit:a;b.service", role="web")))


def test_units_that_differ_in_a_tag_and_use_one_service_are_one() -> None:
    ends = [end(f"unit:{app}-api.service", app=app, role="api") for app in ("shop", "crm")]
    found = who(ends[0], seen(ends[1], db()))
    assert isinstance(found, Who) and found.name == "unit:*-api.service"
    roles = [end(f"unit:shop-{role}.service", app="shop", role=role) for role in ("web", "db")]
    apart = who(roles[0], seen(roles[1], db(), HTTPS))
    assert isinstance(apart, Who) and apart.name == "unit:shop-web.service"


def test_the_declared_workload_that_has_the_process_now() -> None:
    workloads = (
        'any: {on: {}, process: {unit: "*.service"}}, '
        "shop: {on: {app: shop}, process: {unit: nginx.service}}, "
        "crm: {on: {app: crm}, process: {unit: nginx.service}}"
    )
    policy = policy_of(f"{VOCABULARY}workloads: {{{workloads}}}\n")
    for app, name in (("shop", "shop"), ("crm", "crm"), ("erp", "any")):
        assert who(end("unit:nginx.service", app=app), policy=policy) == Who(Kind.WORKLOAD, name)
    assert who(end("", workload="shop", app="shop"), policy=policy) == Who(Kind.WORKLOAD, "shop")
    gone = who(end("container:x", workload="gone", app="shop"), policy=policy)
    assert isinstance(gone, Who) and gone.process is not None and gone.process.kind is ProcessKind.CONTAINER
