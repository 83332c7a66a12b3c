"""From policy files to a `Policy`: every mistake of every file at once, each with its place and its mend.

    bytes ── yamltree ──▶ tree ── vocabulary (all files) ──▶ names ── statements (all files) ──▶ Policy

The vocabulary of every file is read before the first statement, so a file may use what a later one declares. The
order in which the files are given has no influence: they are read by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segctl.model.findings import NOWHERE, Finding, Position
from segctl.model.policy import Policy
from segctl.policy.source import SourceFile
from segctl.policy.syntax.essentials import read_essentials
from segctl.policy.syntax.fields import read_fields, read_scalar
from segctl.policy.syntax.log import FindingLog
from segctl.policy.syntax.statements import StatementReader
from segctl.policy.syntax.suggest import quoted
from segctl.policy.syntax.vocabulary import Vocabulary, silence_unknown
from segctl.policy.syntax.yamltree import Node, read_tree

MAX_FILES = 256
SECTIONS = (
    "version",
    "tags",
    "services",
    "peers",
    "workloads",
    "modes",
    "boundaries",
    "rules",
    "tests",
    "essentials",
)


@dataclass(frozen=True, slots=True)
class ParseResult:
    """`policy` is None exactly when a finding is an error. Findings are sorted by place."""

    policy: Policy | None
    findings: tuple[Finding, ...]


def parse_policy(files: Sequence[SourceFile]) -> ParseResult:
    """Reads `files` as one policy. Never raises for what is in them."""
    log = FindingLog()
    trees = [_read_sections(file, log) for file in _usable(files, log)]
    policy = _read_policy(trees, log)
    findings = log.results()
    return ParseResult(None if findings else policy, findings)


def _usable(files: Sequence[SourceFile], log: FindingLog) -> Iterator[SourceFile]:
    if not files:
        log.error(NOWHERE, "no-files", "there is no policy file", "name a file, or a directory with *.yaml files")
    if len(files) > MAX_FILES:
        message = f"{len(files)} files; a policy has at most {MAX_FILES}"
        log.error(NOWHERE, "too-many-files", message, "put several into one, or name a directory with fewer")
        return
    seen: set[str] = set()
    for file in sorted(files, key=lambda f: f.name):
        if not file.name or not file.name.isprintable() or len(file.name) > 255:
            message = f"file name {quoted(file.name)} cannot be shown"
            log.error(NOWHERE, "file-name", message, "use 1 to 255 printable characters")
        elif file.name in seen:
            log.error(Position(file.name), "file-name", "the file is given twice", "name each file once")
        else:
            seen.add(file.name)
            yield file


def _read_sections(file: SourceFile, log: FindingLog) -> dict[str, Node]:
    """The top-level keys of one file."""
    root = read_tree(file, log)
    sections = read_fields(root, "a policy file", SECTIONS, (), log) if root is not None else None
    if sections is None:
        silence_unknown(log)
        return {}
    if "version" not in sections:
        log.error(Position(file.name, 1, 1), "missing-key", "the file lacks version", "begin it with `version: 1`")
    else:
        version = read_scalar(sections["version"], "version", log)
        if version and version.text != "1":
            message = f"version {quoted(version.text)} of the language is not known to this segctl"
            log.error(version.where, "version", message, "write `version: 1`, or use a newer segctl")
    return sections


def _read_policy(trees: Sequence[dict[str, Node]], log: FindingLog) -> Policy:
    def every(section: str) -> list[Node]:
        return [tree[section] for tree in trees if section in tree]

    vocabulary = Vocabulary()
    for node in every("tags"):
        vocabulary.read_tags(node, log)
    for node in every("services"):
        vocabulary.read_services(node, log)
    for node in every("peers"):
        vocabulary.read_peers(node, log)
    for node in every("workloads"):
        vocabulary.read_workloads(node, log)
    reader = StatementReader(vocabulary, log)
    return Policy(
        tags={key: tuple(sorted(values or ())) for key, values in vocabulary.tags.items()},
        services=vocabulary.services,
        peers=vocabulary.peers,
        workloads=vocabulary.workloads,
        modes=tuple(m for node in every("modes") for m in reader.modes(node)),
        boundaries=tuple(b for node in every("boundaries") for b in reader.boundaries(node)),
        rules=tuple(r for node in every("rules") for r in reader.rules(node)),
        tests=tuple(t for node in every("tests") for t in reader.tests(node)),
        essentials=read_essentials(every("essentials"), vocabulary, log),
    )
