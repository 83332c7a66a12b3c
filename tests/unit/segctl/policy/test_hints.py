"""What a new user writes first, and the mend that is offered."""

from __future__ import annotations

import pytest
from segctl.policy.parse import parse_policy

from tests.policies import after_vocabulary


def hints(source: str = "{role: web}", allow: str = "ssh") -> list[str]:
    text = f"rules: [{{name: r, from: {source}, to: {{role: db}}, allow: [{allow}], owner: o, why: w}}]\n"
    return [f.hint for f in parse_policy(after_vocabulary([text])).findings]


@pytest.mark.parametrize(
    ("allow", "mend"),
    [
        ("443", "write tcp/443 or udp/443"),
        ("8000-8100", "write tcp/8000-8100 or udp/8000-8100"),
        ("70000", "declare it under services"),
        ("shs", "did you mean ssh?"),
    ],
)
def test_a_bare_port_lacks_its_protocol(allow: str, mend: str) -> None:
    assert hints(allow=allow) == [mend]


@pytest.mark.parametrize(
    ("source", "mend"),
    [
        ("shop-web", "did you mean {workload: shop-web}?"),
        ("host", "did you mean {workload: host}?"),
        ("shop-wbe", "did you mean {workload: shop-web}?"),
        ("office", "did you mean {peer: office}?"),
        ("ofice", "did you mean {peer: office}?"),
        ("web", "did you mean {role: web}?"),
        ("any", "write {} for every workload of every host, or {peer: any} for every address outside"),
        ("10.0.0.0/8", "declare it under peers, as NAME: [ADDRESS], and write {peer: NAME}"),
        ('"2001:db8::1"', "declare it under peers, as NAME: [ADDRESS], and write {peer: NAME}"),
        ("qqqqq", "write {TAG: VALUE}, {workload: NAME} or {peer: NAME}"),
        ("[a]", "write {TAG: VALUE}, {workload: NAME} or {peer: NAME}"),
        ("{peer: 10.0.0.0/8}", "declare it under peers, as NAME: [ADDRESS], and write NAME"),
        ("{peer: 10.0.0.1/8}", "declare it under peers, as NAME: [ADDRESS], and write NAME"),
        ("{peer: ofice}", "did you mean office?"),
    ],
)
def test_a_selector_that_is_a_word(source: str, mend: str) -> None:
    assert hints(source) == [mend]
