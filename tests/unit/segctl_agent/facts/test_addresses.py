"""AddressWatcher when the process that reads the addresses cannot be had."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from ipaddress import ip_address

import pytest
from segctl_agent.facts import addresses
from segctl_agent.facts.addresses import AddressWatcher, known_addresses
from segctl_agent.facts.values import Address


def test_the_rules_do_not_wait_for_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert known_addresses(AddressWatcher()) == frozenset()


class Refusals(logging.Handler):
    """Tells that the watcher will try again."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "tried again" in record.getMessage():
            self.told.set()


async def test_a_dump_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found: asyncio.Queue[frozenset[Address]] = asyncio.Queue()
    refusals = Refusals()
    logging.getLogger("segctl_agent.facts.addresses").addHandler(refusals)
    watcher = AddressWatcher()
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        watcher.start(asyncio.get_running_loop(), found.put_nowait)
        async with asyncio.timeout(5):
            await refusals.told.wait()
    assert found.empty()
    async with asyncio.timeout(20):
        assert ip_address("127.0.0.1") in await found.get()
    watcher.close()
    logging.getLogger("segctl_agent.facts.addresses").removeHandler(refusals)


def test_a_dump_that_takes_too_long_is_given_up_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop ends at once after it, as in `segctl-agent load`."""
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: told.append(str(one.exc_value)))
    monkeypatch.setattr(addresses, "_PATIENCE_SECONDS", 0.001)
    assert known_addresses(AddressWatcher()) == frozenset()
    gc.collect()
    assert told == []
