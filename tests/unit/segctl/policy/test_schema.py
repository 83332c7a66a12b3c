from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy
from segctl.policy.render import render_policy
from segctl.policy.schema import policy_schema

from tests.policies import VOCABULARY, example_sources, source
from tests.strategies import policies

DOCS = Path(__file__).parents[4] / "docs"
WRITTEN = DOCS / "policy.schema.json"
VALIDATOR = Draft202012Validator(policy_schema())


def valid(text: str) -> bool:
    return bool(VALIDATOR.is_valid(yaml.load(text, Loader=yaml.BaseLoader)))


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(policy_schema())


def test_the_written_schema_is_up_to_date() -> None:
    assert json.loads(WRITTEN.read_text()) == policy_schema(), (
        "run: python -m segctl.policy.schema > docs/policy.schema.json"
    )


def test_the_examples_validate() -> None:
    for file in example_sources():
        VALIDATOR.validate(yaml.load(file.content, Loader=yaml.BaseLoader))
    assert valid(VOCABULARY)


def test_the_reference_validates() -> None:
    """Every block of docs/policy.md is the language it describes."""
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "policy.md").read_text(), re.DOTALL)
    assert len(blocks) == 10
    for block in blocks:
        VALIDATOR.validate(yaml.load("version: 1\n" + block, Loader=yaml.BaseLoader))
        unknown = {f.code for f in parse_policy([source("version: 1\n" + block)]).findings}
        assert unknown <= {"unknown-tag", "unknown-workload", "unknown-peer", "unknown-service"}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies())
def test_what_parses_validates(policy: Policy) -> None:
    VALIDATOR.validate(yaml.load(render_policy(policy), Loader=yaml.BaseLoader))


@pytest.mark.parametrize(
    "text",
    [
        "tags: {}",
        "version: 2",
        "{version: 1, rulez: []}",
        "{version: 1, services: {x: [tcp]}}",
        "{version: 1, services: {x: tcp/22}}",
        "{version: 1, services: {x: [any]}}",
        "{version: 1, peers: {x: [db.example.com]}}",
        "{version: 1, tags: {Role: [a]}}",
        "{version: 1, workloads: {w: {on: {}, process: {}}}}",
        "{version: 1, workloads: {w: {on: {}, process: {user: a, unit: a.service}}}}",
        "{version: 1, workloads: {w: {on: {}, process: {unit: nginx}}}}",
        "{version: 1, workloads: {w: {on: {}, process: {executable: bin/a}}}}",
        "{version: 1, workloads: {w: {on: {}, process: {executable: /bin/*}}}}",
        "{version: 1, modes: [{select: {peer: x}, mode: test}]}",
        "{version: 1, modes: [{select: {}, mode: enforced}]}",
        "{version: 1, modes: [{select: {}, mode: enforce, incoming: refuse}]}",
        "{version: 1, boundaries: [{name: b, from: {peer: x, env: y}, to: {}}]}",
        "{version: 1, boundaries: [{name: b, from: {process: x}, to: {}}]}",
        "{version: 1, rules: [{name: r, from: {}, to: {}, allow: [ssh], owner: o}]}",
        "{version: 1, rules: [{name: r, from: {}, to: {}, allow: [], owner: o, why: w}]}",
        "{version: 1, rules: [{name: r, from: {}, to: {}, allow: [ssh], owner: o, why: w, review: soon}]}",
        "{version: 1, tests: [{from: {}, to: {}, allow: [ssh], deny: [ssh]}]}",
        "{version: 1, tests: [{from: {}, to: {}}]}",
        "{version: 1, essentials: {rescue: {allow: [ssh]}}}",
    ],
)
def test_typical_mistakes_do_not_validate(text: str) -> None:
    assert not valid(text)
