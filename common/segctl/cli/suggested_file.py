"""An accepted suggestion as a change of the policy's files: a unified diff that adds one file, for `git apply`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from segctl.cli.exits import CliError
from segctl.model.policy import Policy
from segctl.policy.parse import parse_policy
from segctl.policy.render import render_policy
from segctl.policy.source import SourceFile

Named = TypeVar("Named")


def file_name(directory: str, rule: str) -> str:
    return str(PurePosixPath(directory) / f"suggested-{rule}.yaml")


def parse_addition(text: str, files: Sequence[SourceFile]) -> Policy:
    """What the policy file `text` says, alone or by what `files` declare. Raises CliError with every mistake."""
    name = "<suggestion>"
    alone = parse_policy((SourceFile(name, text.encode()),))
    if alone.policy is not None:
        return alone.policy
    parsed = parse_policy((*files, SourceFile(name, text.encode())))
    if parsed.policy is None:
        told = "\n".join(str(f) for f in parsed.findings if f.position.file == name) or str(parsed.findings[0])
        raise CliError(f"the suggestion and the policy do not go together:\n{told}", "Edit it, or the policy.")
    before = parse_policy(files).policy or Policy() if files else Policy()
    return _difference(parsed.policy, before)


def _difference(after: Policy, before: Policy) -> Policy:
    """What `after` has more."""
    tags = {
        key: rest
        for key, values in after.tags.items()
        if (rest := tuple(v for v in values if v not in before.tags.get(key, ())))
    }
    known = {rule.name for rule in before.rules}
    return replace(
        Policy(),
        tags=tags,
        services=_new(after.services, before.services),
        peers=_new(after.peers, before.peers),
        workloads=_new(after.workloads, before.workloads),
        rules=tuple(rule for rule in after.rules if rule.name not in known),
    )


def without_known(addition: Policy, files: Sequence[SourceFile]) -> Policy:
    """Without what the policy's files declare already, in the same words. Raises CliError where they say otherwise."""
    policy = parse_policy(files).policy if files else Policy()
    if policy is None:
        raise CliError("the policy's own files have mistakes", "segctl check tells them.")
    for kind, theirs, ours in (
        ("service", policy.services, addition.services),
        ("peer", policy.peers, addition.peers),
        ("workload", policy.workloads, addition.workloads),
    ):
        for name in sorted(theirs.keys() & ours.keys()):
            if theirs[name] != ours[name]:
                raise CliError(
                    f"{kind} {name} is declared in these files, and says something else",
                    "Accept the suggestion with other names: segctl review edit.",
                )
    if {rule.name for rule in policy.rules} & {rule.name for rule in addition.rules}:
        raise CliError("a rule of that name is in these files", "It may be accepted already.")
    return _difference(addition, policy)


def _new(after: Mapping[str, Named], before: Mapping[str, Named]) -> dict[str, Named]:
    return {name: value for name, value in after.items() if name not in before}


def adding(path: str, content: str) -> str:
    """The diff that makes a file, as `git diff` writes it."""
    lines = content.splitlines()
    head = [f"diff --git a/{path} b/{path}", "new file mode 100644", "--- /dev/null", f"+++ b/{path}"]
    return "\n".join([*head, f"@@ -0,0 +1,{len(lines)} @@", *(f"+{text}" for text in lines)]) + "\n"


def addition_text(addition: Policy, remarks: Sequence[str] = ()) -> str:
    """The file's text, its comments first."""
    return "".join(f"# {remark}\n" for remark in remarks) + render_policy(addition)
