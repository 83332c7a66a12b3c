"""What plan and push say of workloads that come to enforce and are not ready, against a real controller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from segctl.cli.exits import Exit
from segctl_controller.clock import Clock
from sqlalchemy import text

from tests.controller_harness import ControllerLab, running_controller
from tests.unit.segctl.cli.conftest import Cli, Ran
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_flows import batch
from tests.unit.segctl_controller.test_life import Hands, fleet, pushed, told
from tests.unit.segctl_controller.test_reports import report

MODES = "  - {select: {}, mode: enforce}\n"
PROD, DEV, ALL, DB = "{env: prod}", "{env: dev}", "{}", "{workload: shop-db}"
OFFLINE = ("--yes", "--allow-offline")


def policy(**modes: str) -> str:
    """`test=PROD`: with this entry."""
    entries = "".join(f"  - {{select: {select}, mode: {mode.strip('_')}}}\n" for mode, select in modes.items())
    return SHOP.replace("modes:\n" + MODES, "modes:\n" + entries if entries else "")


async def call(cli: Cli, lab: ControllerLab, verb: str, draft: str, *options: str) -> Ran:
    file = lab.state / "draft.yaml"
    file.write_text(draft)
    return await asyncio.to_thread(cli.with_config(lab.operators / "root"), verb, str(file), *options)


def named(ran: Ran) -> list[tuple[dict[str, str], str, list[tuple[str, str]], list[str]]]:
    """Of a plan's JSON: the selector, what moves, and what keeps it."""
    return [
        (
            one["select"]["tags"],
            one["select"]["workload"],
            [(move["host"], move["workload"]) for move in one["moves"]],
            [obstacle["code"] for obstacle in one["obstacles"]],
        )
        for one in ran.json["unready"]
    ]


OURS = [("db1", "host"), ("db1", "shop-db"), ("web1", "host")]
JOINING = policy(enforce=DEV, test=PROD)


@pytest.mark.parametrize(
    ("in_force", "draft", "unready"),
    [
        (policy(test=PROD), policy(enforce=PROD), [({"env": "prod"}, "", OURS, ["silent"])]),
        (policy(observe=ALL), policy(enforce=PROD), [({"env": "prod"}, "", OURS, ["skips-test", "silent"])]),
        (policy(), policy(enforce=DB), [({}, "shop-db", [("db1", "shop-db")], ["skips-test", "silent"])]),
        # All is gathered at last: judged by what it gathers. Nothing is in dev.
        (policy(test=PROD, test_=DEV), policy(enforce=ALL), [({"env": "prod"}, "", OURS, ["silent"])]),
        (policy(test=PROD), policy(enforce=PROD, observe=ALL), [({"env": "prod"}, "", OURS, ["silent"])]),
        # A part of what is in test.
        (policy(test=ALL), policy(test=ALL, enforce=DB), [({}, "shop-db", [("db1", "shop-db")], ["silent"])]),
        # A workload that is new, and enforces at once, has processes that were host's.
        (
            policy(test=ALL).replace("shop-db", "the-db"),
            policy(test=ALL, enforce=DB),
            [({}, "shop-db", [("db1", "shop-db")], ["undeclared"])],
        ),
        (
            policy(test=ALL, enforce=PROD).replace("shop-db", "the-db"),
            policy(test=ALL, enforce=PROD),
            [],
        ),
        (
            policy(test=ALL),
            policy(test=ALL, enforce="{zone: a}").replace("  env: [", "  zone: [a]\n  env: ["),
            [({"zone": "a"}, "", [("db2", "host"), ("db2", "shop-db")], ["undeclared"])],
        ),
        # A workload comes under an entry that enforces already.
        (
            JOINING,
            JOINING.replace("shop-db: {on:", "shop-db: {tags: {env: dev}, on:"),
            [({"env": "dev"}, "", [("db1", "shop-db")], ["joins"])],
        ),
        (policy(enforce=PROD), policy(enforce=PROD, observe=ALL), []),
        (policy(test=PROD), policy(observe=ALL), []),
        (policy(enforce=PROD), policy(enforce=ALL), []),
    ],
)
async def test_what_comes_to_enforce_and_is_not_ready_is_named(
    offline: Cli, tmp_path: Path, in_force: str, draft: str, unready: list[Any]
) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        await fleet(lab)
        if "zone" in draft:
            await lab.enrol("db2", {"role": "db", "zone": "a"})
        await lab.push(in_force)
        ran = await call(offline, lab, "plan", draft, "--json")
        assert ran.code == Exit.OK, ran.err
        assert named(ran) == unready
        strict = await call(offline, lab, "plan", draft, "--require-ready")
        assert strict.code == (Exit.FINDINGS if unready else Exit.OK)
        assert ("Not ready to enforce" in strict.out) == bool(unready)


async def test_what_is_ready_is_not(offline: Cli, tmp_path: Path) -> None:
    clock = Hands()
    async with running_controller(tmp_path / "lab", Clock(clock.now_us)) as lab:
        web, _ = await fleet(lab)
        await pushed(lab, clock, 8.5, policy(test=PROD))
        for day in range(8):
            await report(web, batch(day + 1, flows=told(clock, day)))
        assert named(await call(offline, lab, "plan", policy(enforce=PROD), "--json")) == []
        await report(web, batch(9, flows=told(clock, 0.5, port=9999, rule="", flows=[3])))
        draft = policy(enforce=PROD)
        [(_, _, _, codes)] = named(await call(offline, lab, "plan", draft, "--json"))
        assert codes == ["uncovered", "coming"]
        assert (await call(offline, lab, "push", draft, *OFFLINE, "--require-ready")).code == Exit.FINDINGS


async def test_a_push_says_it_before_it_is_confirmed(offline: Cli, tmp_path: Path) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        await fleet(lab)
        first = await call(offline, lab, "push", policy(enforce=PROD), "--json", "--yes", "--require-ready")
        assert (first.code, "refused: not ready to enforce: env=prod" in first.err) == (Exit.FINDINGS, True)
        assert [one["code"] for one in first.lines[0]["unready"][0]["obstacles"]] == ["undeclared"]
        assert (await call(offline, lab, "push", policy(test=PROD), *OFFLINE)).code == Exit.OK
        asked = await call(offline, lab, "push", policy(enforce=PROD))
        assert "Not ready to enforce: env=prod\n" in asked.out
        assert "no flow was seen in this phase" in asked.out
        assert "Nothing was pushed" in asked.err
        strict = await call(offline, lab, "push", policy(enforce=PROD), *OFFLINE, "--require-ready")
        assert strict.code == Exit.FINDINGS
        assert "push without --require-ready" in strict.err
        done = await call(offline, lab, "push", policy(enforce=PROD), *OFFLINE)
        assert (done.code, "Not ready to enforce: env=prod\n" in done.out) == (Exit.OK, True), done.err
        assert (await call(offline, lab, "push", policy(test=PROD), *OFFLINE)).code == Exit.OK
        config = offline.with_config(lab.operators / "root")
        back = await asyncio.to_thread(config, "rollback", *OFFLINE)
        assert (back.code, "Not ready" in back.out) == (Exit.OK, False)


async def test_a_plan_goes_on_where_nobody_can_say(offline: Cli, tmp_path: Path) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        await fleet(lab)
        await lab.push(policy(test=PROD))
        with lab.controller.flows.store._database.transaction() as work:  # as on a disk that fails
            work.run(text("DROP TABLE flow_lost"))
        ran = await call(offline, lab, "plan", policy(enforce=PROD), "--json")
        assert ran.code == Exit.OK, ran.err
        assert [codes for *_, codes in named(ran)] == [["untold"]]
