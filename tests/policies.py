"""Policies as text, for tests of the policy language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segctl.model.findings import Finding
from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile

EXAMPLES = Path(__file__).parent.parent / "examples"

VOCABULARY = """\
version: 1
tags:
  role: [web, api, db, bastion]
  app: [shop]
  env: [dev, prod]
services:
  postgres: [tcp/5432]
  ssh: [tcp/22]
peers:
  office: [203.0.113.0/24, "2001:db8:40::/48"]
workloads:
  shop-web: {on: {app: shop, role: web}, process: {unit: nginx.service}}
  shop-db: {on: {app: shop, role: db}, process: {unit: "postgresql@*.service"}}
"""


def source(text: str, name: str = "p.yaml") -> SourceFile:
    return SourceFile(name, text.encode())


def example_sources(directory: str = "shop") -> list[SourceFile]:
    """The files of one example, named as `segctl check examples/shop` names them."""
    return [SourceFile(path.name, path.read_bytes()) for path in sorted((EXAMPLES / directory).glob("*.yaml"))]


def findings(*texts: str) -> tuple[Finding, ...]:
    """The findings for `texts`, files p0.yaml, p1.yaml, ..."""
    return parse_policy([source(text, f"p{i}.yaml") for i, text in enumerate(texts)]).findings


def policy(*texts: str) -> Policy:
    """The policy that `texts` are, after VOCABULARY."""
    result = parse_policy(after_vocabulary(texts))
    assert result.policy is not None, "\n".join(map(str, result.findings))
    return result.policy


def said(*texts: str) -> list[str]:
    """`line:column code` of each finding in `texts`, which follow VOCABULARY; lines count from `texts`' first."""
    found = parse_policy(after_vocabulary(texts)).findings
    return [f"{f.position.line - 1}:{f.position.column} {f.code}" for f in found]


def after_vocabulary(texts: Sequence[str]) -> list[SourceFile]:
    """VOCABULARY, then each of `texts` behind a line that gives the version."""
    files = [source("version: 1\n" + text, f"p{i}.yaml") for i, text in enumerate(texts)]
    return [source(VOCABULARY, "a.yaml"), *files]
