"""A release on disk: who and until when, and what waits for the audit log until it is stored there."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc
from segctl_agent.release import (
    Release,
    Told,
    begin_release,
    boot_id,
    boottime,
    end_release,
    keep_release,
    operator,
    read_release,
)
from segctl_agent.state import StateFolder
from segctl_agent.tell_audit import tell_audit

from tests.unit.segctl_agent.test_session import until

WHO = "alice (uid 0, pts/1)"


def told(state: Path) -> list[tuple[str, str, str]]:
    return [(e.action, e.who, e.reason) for e in Told(state).waiting(20)]


def test_a_release_says_who_why_and_until_when(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    release = Release.begin(WHO, "the shop\nis down", timedelta(minutes=30))
    assert begin_release(folder, release) == ""
    assert folder.held == release.words
    assert release.until is not None
    assert folder.held.startswith(f"released by {WHO} at 20")
    assert folder.held.endswith(f"until {release.until:%Y-%m-%d %H:%M:%S} UTC: the shop is down")
    found = read_release(folder)
    assert found is not None
    assert (found.id, found.until, found.boot, found.until_boottime) == (
        *(release.id, release.until, release.boot, release.until_boottime),
    )
    assert told(tmp_path) == [("release", WHO, "the shop is down")]
    end_release(folder, "bob")
    assert folder.held == ""
    assert told(tmp_path) == [("release", WHO, "the shop is down"), ("release-ended", "bob", "")]
    end_release(folder, "bob")
    assert len(told(tmp_path)) == 2


def test_it_ends_by_the_time_since_boot_and_after_a_reboot_by_the_clock(tmp_path: Path) -> None:
    release = Release.begin(WHO, "", timedelta(seconds=60))
    now, far = datetime.now(UTC), timedelta(days=3650)
    assert not release.is_over(now + far, boot_id(), boottime() + 50)
    assert release.is_over(now - far, boot_id(), boottime() + 61)
    assert not release.is_over(now + timedelta(seconds=30), "another boot", 1e9)
    assert release.is_over(now + timedelta(seconds=61), "another boot", 0.0)
    assert not Release.begin(WHO, "", None).is_over(now + far, boot_id(), 1e12)


def test_the_agent_ends_it_and_tells(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    begin_release(folder, Release.begin(WHO, "", timedelta(seconds=60)))
    keep_release(folder)
    assert folder.held
    keep_release(folder, since_boot=lambda: boottime() + 61)
    assert not folder.held
    keep_release(folder)
    assert [who for _, who, _ in told(tmp_path)] == [WHO, "itself: its time was over"]


def test_a_hold_that_somebody_removes_is_told_also_when_no_agent_ran(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    begin_release(folder, Release.begin(WHO, "", None))
    (tmp_path / "hold").unlink()
    keep_release(folder)
    keep_release(folder)
    assert [action for action, _, _ in told(tmp_path)] == ["release", "release-ended"]


@pytest.mark.parametrize(
    "content", ["", "released by alice\n", "released\n{", "x\n[]\n", 'x\n{"id": 1, "until": "soon"}']
)
def test_a_hold_made_by_hand_or_by_an_older_version_holds(tmp_path: Path, content: str) -> None:
    (tmp_path / "hold").write_text(content)
    folder = StateFolder(tmp_path)
    keep_release(folder)
    assert folder.held == (content.partition("\n")[0] or "released")
    assert read_release(folder) is None


def test_a_full_disk_does_not_stop_an_emergency(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", state], check=True)
    try:
        with pytest.raises(OSError, match="No space"):
            (state / "ballast").write_bytes(bytes(1 << 20))
        problem = begin_release(StateFolder(state), Release.begin(WHO, "", None))
        assert "No space left" in problem
        assert StateFolder(state).held == "released"
    finally:
        subprocess.run(["umount", state], check=True)


def test_roots_entries_belong_to_the_agents_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4711)
    begin_release(StateFolder(tmp_path), Release.begin(WHO, "", None))
    assert {p.stat().st_uid for p in tmp_path.rglob("*")} == {4711}


def test_who_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22")
    assert operator().startswith(f"alice (uid {os.getuid()}, ")
    assert operator().endswith("from 192.0.2.7)")
    monkeypatch.setenv("SUDO_USER", "al\x1b[31mice\n" + "x" * 500)
    assert operator().isprintable()
    assert len(operator()) <= 200


class Desk(rpc.AgentServicer):
    """Answers with each of `refusals` first, then stores."""

    def __init__(self) -> None:
        self.refusals: list[grpc.StatusCode] = []
        self.malformed = ""  # the id of an entry that no request may hold
        self.stored: dict[str, str] = {}

    async def Audit(self, request: pb.HostAuditRequest, context: Any) -> pb.HostAuditReply:
        if self.refusals:
            await context.abort(self.refusals.pop(0), "not now")
        if self.malformed in {entry.id for entry in request.entries}:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such action")
        self.stored.update({e.id: e.action for e in request.entries[:1]})
        return pb.HostAuditReply(stored=[request.entries[0].id, "of somebody else"])


@asynccontextmanager
async def telling(desk: Desk, state: Path) -> AsyncIterator[None]:
    server = grpc.aio.server()
    rpc.add_AgentServicer_to_server(desk, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        task = asyncio.create_task(tell_audit(rpc.AgentStub(channel), Told(state)))  # type: ignore[arg-type]
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.stop(None)


async def test_everything_is_told_and_kept_until_it_is_stored(tmp_path: Path) -> None:
    folder, desk = StateFolder(tmp_path), Desk()
    begin_release(folder, Release.begin(WHO, "", None))
    end_release(folder, WHO)
    (tmp_path / "told" / "damaged.json").write_text("{")
    desk.refusals = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    async with telling(desk, tmp_path):
        await until(lambda: not desk.refusals)
        await asyncio.sleep(0.1)
        assert len(told(tmp_path)) == 2  # the next attempt is a minute away
    async with telling(desk, tmp_path):
        await until(lambda: not told(tmp_path))
    assert list(desk.stored.values()) == ["release", "release-ended"]
    begin_release(folder, Release.begin(WHO, "", None))
    desk.refusals = [grpc.StatusCode.INVALID_ARGUMENT]
    async with telling(desk, tmp_path):  # what is never taken does not hold up what comes after it
        await until(lambda: not told(tmp_path))
    assert len(desk.stored) == 2


async def test_what_is_malformed_takes_nothing_else_with_it(tmp_path: Path) -> None:
    folder, desk = StateFolder(tmp_path), Desk()
    for _ in range(2):
        begin_release(folder, Release.begin(WHO, "", None))
        end_release(folder, WHO)
    waiting = [entry.id for entry in Told(tmp_path).waiting(20)]
    desk.malformed = waiting[1]
    async with telling(desk, tmp_path):
        await until(lambda: not told(tmp_path))
    assert list(desk.stored) == [waiting[0], *waiting[2:]]


def test_what_finds_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("segctl_agent.release.MOST_WAITING", 2)
    for number in range(4):
        Told(tmp_path).add(pb.HostEntry(id=f"entry-{number}", action="release"))
    assert len(told(tmp_path)) == 3
    assert "a release is not kept for it" in caplog.text
