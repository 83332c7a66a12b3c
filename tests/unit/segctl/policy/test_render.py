from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy
from segctl.policy.render import render_policy
from segctl.policy.source import SourceFile

from tests.shop import SHOP
from tests.strategies import policies


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies())
def test_parse_of_render_is_identity(policy: Policy) -> None:
    """Whatever a policy says, its YAML says too, down to the words of `allow`."""
    text = render_policy(policy)
    result = parse_policy([SourceFile("rendered.yaml", text.encode())])
    assert result.findings == ()
    assert result.policy == policy


def test_render_keeps_the_keys_as_people_write_them() -> None:
    """`on` stays bare, and selectors stay on one line."""
    text = render_policy(SHOP)
    assert "\n    on: {app: shop, role: " in text
    assert "'on'" not in text
