"""Whatever the bytes, parsing returns findings and never raises."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segctl.model.findings import Severity
from segctl.policy.codes import CODES
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile

from tests.policies import example_sources

EXAMPLES = tuple(file.content for file in example_sources())
_SNIPPETS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"- ",
    b"\n",
    b"\t",
    b"&a ",
    b"*a",
    b"!!int ",
    b"'",
    b'"',
    b"|\n",
    b"\xff",
    b"\x00",
)
_WORDS = (
    b"workload",
    b"peer",
    b"any",
    b"host",
    b"from",
    b"to",
    b"name",
    b"[]",
    b"{}",
    b"~",
    b"1",
    b"<<",
    b"\xe2\x80\xae",
)
_FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def judge(*contents: bytes) -> None:
    result = parse_policy([SourceFile(f"{i}.yaml", content) for i, content in enumerate(contents)])
    assert (result.policy is None) == any(f.severity is Severity.ERROR for f in result.findings)
    for finding in result.findings:
        assert finding.code in CODES
        assert finding.hint
        assert str(finding).isprintable()
        lines = contents[int(finding.position.file.removesuffix(".yaml"))].count(b"\n") + 1
        assert 0 <= finding.position.line <= lines + 1


@_FUZZ
@given(st.binary(max_size=300))
def test_arbitrary_bytes(content: bytes) -> None:
    judge(content)


@_FUZZ
@given(st.lists(st.sampled_from(_SNIPPETS + _WORDS), max_size=40).map(b"".join))
def test_yaml_like_bytes(content: bytes) -> None:
    judge(b"version: 1\nrules: " + content)


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """The example with a few cuts, copies and insertions."""
    files = list(EXAMPLES)
    for _ in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, len(files) - 1))
        content = files[index]
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 30)))
        put = draw(st.sampled_from((b"", content[start:end] * 2, *_SNIPPETS, *_WORDS)))
        files[index] = content[:start] + put + content[end:]
    return files


@_FUZZ
@given(mutated())
def test_mutated_examples(contents: list[bytes]) -> None:
    judge(*contents)


@pytest.mark.parametrize(
    "content",
    [
        b"version: 1\nrules: " + b"[" * 100_000,
        b"version: 1\ntags: {" + b"a: [b], " * 50_000 + b"}",
        b"version: 1\nmodes: [" + b"{select: {rloe: x}, mode: enforced}, " * 20_000 + b"]",
        b"version: 1\nservices: {" + b"".join(b"s%d: [x/%d], " % (i, i) for i in range(30_000)) + b"}",
        b"version: 1\ntags: {role: [" + b"x" * 900_000 + b"]}",
    ],
    ids=["brackets", "one key often", "typing errors", "bad services", "a long word"],
)
@pytest.mark.timeout(30)
def test_large_nonsense_is_answered_soon(content: bytes) -> None:
    judge(content)
