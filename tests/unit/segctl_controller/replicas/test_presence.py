"""What other controllers say of hosts, when it comes in an unlucky order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from segctl.model.policy import Tags
from segctl_controller.clock import Clock
from segctl_controller.contest import Origin
from segctl_controller.fleet import Fleet, Standing
from segctl_controller.replicas.presence import Presences
from segctl_controller.replicas.roster import Roster
from segctl_controller.replicas.standings import Told, standing_text
from segctl_controller.store.records import HostRecord, ProofRecord
from segctl_controller.store.shared import Presence

HOST = HostRecord("web1", Tags(), "s", 5)
PROVEN = Standing(connected=True, proof=ProofRecord("web1", 1, "d" * 64, "k", 1))


async def test_who_waits_for_a_host_hears_of_it_though_its_session_here_ended_before_our_claim_was_stored() -> None:
    fleet = Fleet(Clock(), lambda _host: None)
    fleet.put_host(HOST)
    live: dict[str, Any] = {"web1": SimpleNamespace(host="web1", origin=Origin(), lives=True)}
    answered = asyncio.Event()

    async def told(_method: object, *_arguments: object) -> int:
        await answered.wait()
        return 1

    async def rows(_method: object, *_arguments: object) -> list[Presence]:
        return [Presence("web1", "another", standing_text(Told(PROVEN, Origin(), HOST.enrolled_us)), 3)]

    registry = SimpleNamespace(fleet=fleet, session=live.get, sessions=live, elsewhere=lambda _host: None)
    database, shared = SimpleNamespace(call=told, read=rows), SimpleNamespace(tell=None, presences=None)
    presences: Any = Presences(registry, shared, database, Clock(), Roster("own"))  # type: ignore[arg-type]
    with fleet.watch() as changes:
        storing = asyncio.create_task(presences._store(["web1"]))
        await asyncio.sleep(0)
        await presences.catch_up()
        live.clear()
        changes.take()
        answered.set()
        await storing
        assert fleet.standing("web1").proof == PROVEN.proof
        assert changes.take() is None
