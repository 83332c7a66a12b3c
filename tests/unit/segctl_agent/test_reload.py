"""SIGHUP: every step is done and told, whatever one of them meets."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest
from segctl.errors import StateError
from segctl.systemd import Notifier
from segctl_agent.reload import Reload


async def works() -> str:
    return "2 listeners"


async def fails() -> str:
    raise StateError("identity: key.pem is gone")


async def test_a_step_that_fails_hinders_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(5)
        reload = Reload(Notifier({"NOTIFY_SOCKET": link.getsockname()}), lambda: "generation 3", (fails, works))
        task = asyncio.create_task(reload.run())
        reload.request()
        heard = [(await asyncio.to_thread(link.recv, 4096)).decode() for _ in range(2)]
        task.cancel()
    assert heard[0].startswith("RELOADING=1\n")
    assert heard[1] == "READY=1\nSTATUS=generation 3"
    assert "reload: identity: key.pem is gone" in caplog.messages
    assert "reloaded: FAILED: identity: key.pem is gone; 2 listeners" in caplog.messages
