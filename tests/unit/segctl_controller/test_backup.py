"""A backup of a controller that runs, and its restore over real TLS; and what a damaged file is told."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from segctl.errors import StateError
from segctl.proto.v1 import admin_pb2
from segctl_controller.backup import FILES, MANIFEST, restore, take_backup
from segctl_controller.clock import Clock
from segctl_controller.lock import alone
from segctl_controller.main import main
from segctl_controller.setup import open_store
from segctl_controller.store.records import Entry

from tests.controller_harness import FakeAgent, init_state, running_controller
from tests.unit.segctl_controller.test_main import init, running, who_am_i


def controller(*arguments: str | Path) -> Result:
    """In this process: a new one would take a second each."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


POLICY = "version: 1\nmodes:\n  - {select: {}, mode: observe}\n"


async def test_a_controller_comes_back_as_it_was_and_hosts_go_on(tmp_path: Path) -> None:
    to = tmp_path / "fleet.backup"
    async with running_controller(tmp_path) as lab:
        steady, moved = await lab.enrol("web1", {}), await lab.enrol("web2", {})
        await lab.push(POLICY)
        manifest = take_backup(lab.state, to, lab.controller.clock)
        assert (manifest.generation, manifest.hosts) == (1, 2)
        assert to.stat().st_mode & 0o777 == 0o600
        assert [p.name for p in to.parent.glob(".segctl*")] == []
        await lab.push(POLICY)  # what comes after is not in it
        token = await lab.token({})
        moved = await moved.renewed()
        async with moved.session() as session:
            await session.receive()
    restore(to, lab.state, True, Clock())
    (aside,) = lab.state.glob("replaced-*")
    assert {p.name for p in aside.iterdir()} >= set(FILES)
    async with running_controller(tmp_path) as lab:
        for agent in (steady, moved):
            async with FakeAgent(lab, agent.name, agent.identity).session() as session:
                assert (await session.receive()).welcome.host == agent.name
        history = await lab.admin().History(admin_pb2.HistoryRequest())
        assert [g.number for g in history.generations] == [1]
        assert not (await lab.admin().ListTokens(admin_pb2.ListTokensRequest())).tokens, token
        audit = (await lab.admin().Audit(admin_pb2.AuditRequest())).entries
        assert [e.action for e in audit[:3]] == ["certificate-adopted", "restore", "backup"]
        assert f"restored from backup of {manifest.taken}" in audit[1].detail
        assert audit[2].subject == str(to)


def test_as_commands_while_it_runs_and_after_it_was_killed(tmp_path: Path) -> None:
    init(tmp_path)
    state, first, second = tmp_path / "state", tmp_path / "one", tmp_path / "two"
    with running(tmp_path) as process:
        done = controller("backup", "--to", first, "--state", state)
        assert done.exit_code == 0, done.stderr
        assert "holds the CA key" in done.stderr
        busy = controller("restore", "--from", first, "--state", state, "--replace")
        assert busy.exit_code == 1
        assert "a controller runs there; stop it first" in busy.stderr
        assert controller("backup", "--to", first, "--state", state).exit_code == 1  # none is overwritten
        second_controller = controller("run", "--state", state)
        assert "a controller runs there" in second_controller.stderr
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (state / "controller.db-wal").exists()
    assert controller("backup", "--to", second, "--state", state).exit_code == 0
    refused = controller("restore", "--from", first, "--state", state)
    assert refused.exit_code == 1
    assert "--replace" in refused.stderr
    done = controller("restore", "--from", second, "--state", state, "--replace")
    assert done.exit_code == 0, done.stderr
    assert "generation 0, 0 hosts" in done.stdout
    assert "join tokens were removed" in done.stderr
    elsewhere = controller("restore", "--from", first, "--state", tmp_path / "new" / "state")
    assert elsewhere.exit_code == 0, elsewhere.stderr
    renewed = controller("admin", "renew", "root", "--out", tmp_path / "renewed", "--state", state)
    assert renewed.exit_code == 0, renewed.stderr
    unknown = controller("admin", "renew", "nobody", "--out", tmp_path / "nobody", "--state", state)
    assert "no operator 'nobody'" in unknown.stderr
    with running(tmp_path):
        reply = who_am_i(tmp_path / "renewed")
        assert (reply.name, reply.role) == ("root", "admin")
        assert reply.certificate_until_us > 0
        with pytest.raises(Exception, match="admin renew root"):
            who_am_i(tmp_path / "root")


def test_a_backup_is_consistent_while_somebody_writes(tmp_path: Path) -> None:
    state = init_state(tmp_path)
    writer, stop = open_store(state), threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            writer.add_entry(Entry(written, "root", "act", "subject", "x" * 500))
            time.sleep(0.001)  # SQLite's lock is not fair

    thread = threading.Thread(target=write)
    thread.start()
    backups = 0
    try:
        while written < 20 or backups < 3:
            take_backup(state, tmp_path / f"b{backups}", Clock())
            backups += 1
    finally:
        stop.set()
        thread.join()
        writer.close()
    for number in range(backups):
        restore(tmp_path / f"b{number}", tmp_path / f"r{number}", False, Clock())
        with sqlite3.connect(tmp_path / f"r{number}" / "controller.db") as connection:
            times = [
                us for (us,) in connection.execute("SELECT at_us FROM audit WHERE action = 'act' ORDER BY sequence")
            ]
        assert times == list(range(1, len(times) + 1))


def content_of(backup: Path) -> dict[str, bytes]:
    with tarfile.open(backup) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def packed(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def with_manifest(content: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    return {**content, MANIFEST: json.dumps({**json.loads(content[MANIFEST]), **changes}).encode()}


DAMAGES: dict[str, tuple[Callable[[bytes, dict[str, bytes]], bytes], str]] = {
    "cut off": (lambda raw, _: raw[: len(raw) // 2], "damaged"),
    # Of the checksum of the whole: a bit elsewhere may make no difference to what is read.
    "one bit": (lambda raw, _: raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:], "damaged"),
    "empty": (lambda raw, _: b"", "damaged|no backup"),
    "text": (lambda raw, _: b"certainly a backup", "damaged"),
    "another archive": (lambda _, c: packed({"etc/passwd": b"root"}), "no backup of a segctl controller"),
    "a path": (lambda _, c: packed({**c, "../evil": b"x"}), "belongs to no backup"),
    "one file missing": (lambda _, c: packed({n: d for n, d in c.items() if n != "ca.key"}), "ca.key in it is missing"),
    "a file changed": (lambda _, c: packed({**c, "ca.pem": c["ca.pem"] + b"\n"}), "ca.pem in it is missing or damaged"),
    "another format": (lambda _, c: packed(with_manifest(c, format=2)), "format 2"),
    "strange fields": (lambda _, c: packed(with_manifest(c, more=1)), "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_changes_nothing(tmp_path: Path, damage: str) -> None:
    state = init_state(tmp_path)
    good, bad = tmp_path / "good", tmp_path / "bad"
    take_backup(state, good, Clock())
    before = {p.name: p.read_bytes() for p in state.iterdir()}
    make, words = DAMAGES[damage]
    bad.write_bytes(make(good.read_bytes(), content_of(good)))
    with pytest.raises(StateError, match=words) as caught:
        restore(bad, state, True, Clock())
    assert str(bad) in str(caught.value)
    after = {p.name: p.read_bytes() for p in state.iterdir() if p.name != "lock"}
    assert after == before
    assert not (tmp_path / "evil").exists()
    with pytest.raises(StateError, match="missing"):
        restore(tmp_path / "missing", state, True, Clock())


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def another(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def garbled(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[:4096] = os.urandom(4096)
    path.write_bytes(raw)


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [emptied, another, garbled, gone])
def test_no_new_database_takes_the_place_of_a_damaged_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    state = init_state(tmp_path)
    database, backup = state / "controller.db", tmp_path / "backup"
    take_backup(state, backup, Clock())
    damage(database)
    left = database.read_bytes() if database.exists() else None
    with pytest.raises(StateError, match=rf"segctl-controller restore --from BACKUP --state {state} --replace"):
        open_store(state)
    assert (database.read_bytes() if database.exists() else None) == left
    with pytest.raises(StateError):
        take_backup(state, tmp_path / "of a damaged one", Clock())
    assert not (tmp_path / "of a damaged one").exists()
    restore(backup, state, True, Clock())
    store = open_store(state)
    assert [o.name for o in store.operators()] == ["root"]
    store.close()


def test_root_leaves_the_files_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    take_backup(init_state(tmp_path), tmp_path / "backup", Clock())
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 4711, 4711)
    restore(tmp_path / "backup", state, False, Clock())
    restore(tmp_path / "backup", state, True, Clock())
    owners = {p.name: p.stat().st_uid for p in state.rglob("*")}
    assert set(owners.values()) == {4711}, owners
    assert {"lock", *FILES} <= set(owners)


def test_one_controller_a_directory(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(StateError, match="a controller runs there"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_full_disk_leaves_no_half_backup(tmp_path: Path) -> None:
    """A tmpfs of its own, too small for the copy."""
    state = init_state(tmp_path)
    store = open_store(state)
    for _ in range(500):
        store.add_entry(Entry(1, "root", "act", "subject", os.urandom(2000).hex()))
    store.close()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        with pytest.raises(StateError, match=r"the backup|cannot be copied"):
            take_backup(state, small / "backup", Clock())
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
