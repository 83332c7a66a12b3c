"""What a push would enforce although it is not ready: as `segctl enforce` judges, whoever changed the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from segctl.cli.exits import CliError
from segctl.cli.views import ABSENT, ModeChange, Plan, Unready
from segctl.cli.views_life import Obstacle, Selection
from segctl.model.inventory import Host
from segctl.model.policy import HOST_WORKLOAD, Mode, Policy, Selector, Tags
from segctl.policy.decide import Instance, effective_mode, selects
from segctl.policy.life.past import mode_of
from segctl.policy.parse import parse_policy
from segctl.policy.selectors import InstanceFinder
from segctl.policy.source import SourceFile

if TYPE_CHECKING:
    from segctl.cli.client import Controller

AT_ONCE = 64
"""Selectors of one question."""
FIRST = "push it in test first"
SKIPS_TEST = (Obstacle("skips-test", "it skips test: what it would deny was never reported", FIRST),)
UNDECLARED = (Obstacle("undeclared", "the policy in force does not declare it, so nothing is known of it", FIRST),)
JOINS = (Obstacle("joins", "it enforces already and comes to name these, of which nothing is known", FIRST),)
Moves = dict[Selector, tuple[ModeChange, ...]]


def find_unready(controller: Controller, planned: Plan, files: Sequence[SourceFile]) -> tuple[Unready, ...]:
    """By selector. Asks nothing where nothing comes to enforce."""
    stricter = [m for m in planned.modes if _mode(m.after) == "enforce" and _mode(m.before) != "enforce"]
    draft = parse_policy(files).policy
    if not stricter or draft is None:
        return ()
    active, tags = _in_force(controller, planned.base_generation), {h.name: Tags.of(h.tags) for h in controller.hosts()}
    moving = [m for move in stricter if _mode((m := _from_host(active, move, tags)).before) in ("observe", "test")]
    if not moving:
        return ()
    moves = _questions(draft, active, moving, tags)
    known = [select for select in moves if _declares(active, select)]
    asked = [select for select in known if mode_of(active, select) is not Mode.ENFORCE]
    keeps: dict[Selector, tuple[Obstacle, ...]] = {select: JOINS if select in known else UNDECLARED for select in moves}
    for begin in range(0, len(asked), AT_ONCE):
        keeps |= _judged(controller, asked[begin : begin + AT_ONCE], moves)
    return tuple(
        Unready(Selection(dict(select.tags.pairs), select.workload or ""), its, keeps[select])
        for select, its in moves.items()
        if keeps[select]
    )


def _from_host(active: Policy, move: ModeChange, tags: Mapping[str, Tags]) -> ModeChange:
    """A workload that is new has what was `host`'s until now, in that mode."""
    if _mode(move.before) not in ABSENT or move.host not in tags:
        return move
    of_host = Instance(move.host, HOST_WORKLOAD, tags[move.host], tags[move.host])
    return replace(move, before=effective_mode(active, of_host).value)


def _mode(words: str) -> str:
    """Without how denials are answered."""
    return words.partition(",")[0]


def _in_force(controller: Controller, number: int) -> Policy:
    """Empty before the first push."""
    files = controller.generation(number).files if number else ()
    return parse_policy([SourceFile(file.name, file.content.encode()) for file in files]).policy or Policy()


def _declares(policy: Policy, select: Selector) -> bool:
    """Of another one the controller has nothing to say."""
    if select.workload not in (None, HOST_WORKLOAD) and select.workload not in policy.workloads:
        return False
    return all(value in policy.tags.get(key, ()) for key, value in select.tags.pairs)


def _questions(draft: Policy, active: Policy, moving: Sequence[ModeChange], tags: Mapping[str, Tags]) -> Moves:
    """The entries that come to enforce, with what they name of these. One that gathers what is in test by entries of
    its own (`select: {}` in the end) is judged by those."""
    named_then, named_now = _namer(draft, moving, tags), _namer(active, moving, tags)
    found: Moves = {}
    for select in dict.fromkeys(entry.select for entry in draft.modes if entry.mode is Mode.ENFORCE):
        its = named_then(select)
        gathers = _declares(active, select) and mode_of(active, select) is Mode.OBSERVE
        if gathers and its and all(_mode(move.before) == "test" for move in its):
            parts = {entry.select for entry in active.modes if entry.mode is Mode.TEST}
            found |= {part: named_now(part) for part in sorted(parts, key=str)}
        else:
            found[select] = its
    return {select: its for select, its in found.items() if its}


def _namer(
    policy: Policy, moving: Sequence[ModeChange], tags: Mapping[str, Tags]
) -> Callable[[Selector], tuple[ModeChange, ...]]:
    finder = InstanceFinder(policy)
    hosts = [Host(name, tags[name]) for name in {move.host for move in moving} & tags.keys()]
    instances = {(one.host, one.workload): one for host in hosts for one in finder.of(host)}

    def named(select: Selector) -> tuple[ModeChange, ...]:
        return tuple(m for m in moving if (one := instances.get((m.host, m.workload))) and selects(select, one))

    return named


def _judged(controller: Controller, asked: Sequence[Selector], moves: Moves) -> dict[Selector, tuple[Obstacle, ...]]:
    try:
        found = controller.readiness(asked, None, None).selectors
    except CliError as error:  # a plan goes on without, and says so
        untold = Obstacle("untold", f"nobody could say whether it is: {error.message}", "ask again: segctl enforce")
        return dict.fromkeys(asked, (untold,))
    keeps = {}
    for select, one in zip(asked, found, strict=False):
        skips = SKIPS_TEST if any(_mode(move.before) == "observe" for move in moves[select]) else ()
        keeps[select] = (*skips, *(() if one.ready else one.obstacles))
    return keeps
