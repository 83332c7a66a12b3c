"""Who waits for a thousand hosts looks at those that changed."""

from __future__ import annotations

import asyncio

from segctl_controller.changes import Changes


def test_at_first_anything_may_have_changed() -> None:
    changes = Changes()
    assert changes.take() is None
    assert changes.take() == ()


def test_hosts_come_once_and_in_the_order_in_which_they_changed() -> None:
    changes = Changes()
    changes.take()
    for host in ("web2", "db1", "web2"):
        changes.note(host)
    assert changes.take() == ("web2", "db1")


def test_a_change_of_the_fleet_is_one_of_any_host() -> None:
    changes = Changes()
    changes.take()
    changes.note("web1")
    changes.note()
    assert changes.take() is None
    changes.note("db1")
    assert changes.take() == ("db1",)


async def test_what_came_before_the_wait_ends_it() -> None:
    changes = Changes()
    changes.take()
    changes.note("web1")
    async with asyncio.timeout(5):
        await changes.wait()
    changes.take()
    waiting = asyncio.create_task(changes.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    changes.note()
    async with asyncio.timeout(5):
        await waiting
