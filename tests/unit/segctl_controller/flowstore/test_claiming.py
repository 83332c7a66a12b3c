"""Which workload has a process that another one had when it was seen, or none."""

from __future__ import annotations

import pytest
from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl_controller.flowstore.claiming import Claims

WEB = "web: {on: {role: web}, process: {unit: web*.service}}"
LOGINS = "logins: {on: {role: web}, process: {unit: user.slice}}"
PLAIN = "plain: {on: {role: web}, process: {unit: web.service}}"


def policy(*workloads: str) -> Policy:
    text = "version: 1\ntags: {role: [web, db]}\n" + ("workloads:\n" if workloads else "")
    text += "".join(f"  {one}\n" for one in workloads)
    parsed = parse_policy([SourceFile("p.yaml", text.encode())])
    assert parsed.policy is not None, parsed.findings
    return parsed.policy


def unit(name: str, process: str, on: str = "web") -> str:
    return f"{name}: {{on: {{role: {on}}}, process: {{{process}}}}}"


@pytest.mark.parametrize(
    ("before", "draft", "told", "process", "was", "now"),
    [
        pytest.param(
            [WEB], [unit("front", "unit: web*.service")], "web", "unit:web1.service", "web", "front", id="name"
        ),
        pytest.param([WEB], [unit("web", "unit: new.service")], "web", "unit:web1.service", "web", "host", id="unit"),
        pytest.param(
            [WEB],
            [unit("web", "unit: new.service"), unit("old", "unit: web1.service")],
            *("web", "unit:web1.service", "web", "old"),
            id="another-has-it",
        ),
        pytest.param(
            [WEB], [WEB, unit("admin", "unit: web1.service")], "web", "unit:web1.service", "web", "admin", id="narrower"
        ),
        pytest.param(
            [WEB], [WEB, unit("admin", "unit: web1.service")], "web", "unit:web2.service", "web", "web", id="not-it"
        ),
        pytest.param(
            [WEB],
            [WEB, unit("admin", "unit: web1.service", "db")],
            "web",
            "unit:web1.service",
            "web",
            "web",
            id="other-hosts",
        ),
        pytest.param([PLAIN], [PLAIN, WEB], "plain", "unit:web.service", "plain", "plain", id="wider"),
        pytest.param([WEB, PLAIN], [WEB], "plain", "unit:web.service", "plain", "web", id="gone"),
        pytest.param([], [WEB], "host", "unit:web1.service", "host", "web", id="new"),
        pytest.param([WEB], [], "web", "unit:web1.service", "web", "web", id="none-declared"),
        pytest.param([WEB], [LOGINS], "web", "exe:/usr/bin/curl", "web", "logins", id="logins"),
        pytest.param([WEB], [WEB, LOGINS], "web", "exe:/usr/bin/curl", "web", "web", id="not-logins"),
        pytest.param(
            [unit("batch", "unit: batch.slice")],
            [unit("batch", "unit: batch.slice"), WEB],
            *("batch", "unit:web1.service", "batch", "batch"),
            id="slice-goes-before-unit",
        ),
        pytest.param(
            [unit("job", "user: backup")],
            [unit("job", "user: backup"), WEB],
            *("job", "unit:web1.service", "job", "web"),
            id="unit-goes-before-user",
        ),
        pytest.param(
            [unit("ssh", "unit: sshd.service")],
            [unit("ssh", "unit: ssh.socket")],
            *("ssh", "unit:ssh.service", "ssh", "ssh"),
            id="socket",
        ),
        pytest.param([WEB], [unit("web", "unit: new.service")], "web", "", "web", "web", id="not-known"),
    ],
)
def test_a_process_is_of_the_workload_that_would_have_it(
    before: list[str], draft: list[str], told: str, process: str, was: str, now: str
) -> None:
    claims = Claims(policy(*draft), policy(*before))
    assert (claims.was("role=web", told, process), claims.of("role=web", told, process)) == (was, now)


def test_workloads_that_can_lose_nothing_need_no_look() -> None:
    """What costs, of ten million rows, is what is not settled."""
    active = policy(WEB, PLAIN, LOGINS)
    assert Claims(active).settled == Claims(active, active).settled == {"web", "plain", "logins"}
    assert Claims(policy(WEB, PLAIN, LOGINS, unit("admin", "unit: a.service")), active).settled == {"plain", "logins"}
    assert Claims(policy(WEB, PLAIN, LOGINS, unit("psql", "executable: /usr/bin/psql")), active).settled == set()
    assert Claims(policy(unit("web", "unit: w.service"), PLAIN, LOGINS), active).settled == {"plain", "logins"}
