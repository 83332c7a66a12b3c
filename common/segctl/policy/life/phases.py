"""The phases of a selector, observe -> test -> enforce, and the change of the policy files from one to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from segctl.errors import SegctlError
from segctl.model.policy import Mode, ModeRule, Policy, Selector
from segctl.policy.checks.terms import Terms
from segctl.policy.life.past import mode_of
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.policy.syntax.modes import add_mode, entry_text, set_mode

LADDER = (Mode.OBSERVE, Mode.TEST, Mode.ENFORCE)


class PhaseError(SegctlError):
    """The selector cannot go to that phase by a change of its own entry; says which entry keeps it."""


def phase_after(mode: Mode) -> Mode | None:
    """None: it enforces."""
    at = mode.strictness + 1
    return LADDER[at] if at < len(LADDER) else None


def phase_before(mode: Mode) -> Mode | None:
    """None: it observes."""
    return LADDER[mode.strictness - 1] if mode.strictness else None


def with_mode(files: Sequence[SourceFile], policy: Policy, selector: Selector, mode: Mode) -> Mapping[str, bytes]:
    """The files that change, by name, each with its new content. `policy` is what `files` say, without an error.

    The entry of just this selector says the new mode; where there is none, one is added. Everything else stays as it
    was written, byte for byte. Raises PhaseError where another entry would hold it in a stricter mode.
    """
    own = [entry for entry in policy.modes if entry.select == selector]
    _refuse_stricter(policy, selector, mode)
    contents = {file.name: file.content for file in files}
    names = sorted({entry.where.file for entry in own}) or [_file_for(files, policy)]
    if own:
        strictest = max(entry.mode.strictness for entry in own)
        wrong = [e for e in own if e.mode.strictness > mode.strictness or e.mode.strictness == strictest]
        # From the end to the begin, so that the places of the others stay what they are.
        for entry in sorted(wrong, key=lambda e: e.where, reverse=True):
            contents[entry.where.file] = set_mode(contents[entry.where.file], entry.where, mode)
    else:
        contents[names[0]] = add_mode(contents[names[0]], selector, mode)
    changed = {file.name: contents[file.name] for file in files if contents[file.name] != file.content}
    _verify([SourceFile(name, content) for name, content in contents.items()], names, policy, selector, mode)
    return changed


def _refuse_stricter(policy: Policy, selector: Selector, mode: Mode) -> None:
    terms = Terms(policy)
    wanted = terms.of(selector)
    for entry in policy.modes:
        stricter = entry.mode.strictness > mode.strictness
        if stricter and entry.select != selector and terms.of(entry.select).covers(wanted):
            raise PhaseError(
                f"{selector} cannot be in {mode.value} by itself: the strictest mode holds, and {entry.where} has "
                f"{entry.select} in {entry.mode.value}; move that entry"
            )


def _file_for(files: Sequence[SourceFile], policy: Policy) -> str:
    """Where the last entry is; in a policy without modes, the first file."""
    last: ModeRule | None = policy.modes[-1] if policy.modes else None
    return last.where.file if last else min(file.name for file in files)


def _beside(policy: Policy, selector: Selector) -> Policy:
    """All that a change of its mode leaves as it is."""
    return replace(policy, modes=tuple(entry for entry in policy.modes if entry.select != selector))


def _verify(files: Sequence[SourceFile], names: Sequence[str], before: Policy, selector: Selector, mode: Mode) -> None:
    """What was written is read again: an edit that misses, or says anything else, must not reach a file."""
    policy = parse_policy(files).policy
    if (
        policy is None
        or mode_of(policy, selector) is not mode
        or _beside(policy, selector) != _beside(before, selector)
    ):
        raise PhaseError(
            f"the way in which modes is written in {' and '.join(names)} is not one that can be changed here; write "
            f"this entry there by hand, in place of the one for {selector}: {entry_text(selector, mode)}"
        )
