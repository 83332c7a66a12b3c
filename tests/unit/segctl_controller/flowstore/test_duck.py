"""DuckDB's file: a full disk, a damaged one, one that somebody else has open, one of a newer version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from segctl.errors import StateError
from segctl_controller.errors import StoreFullError
from segctl_controller.flowstore.duck import DuckDatabase
from segctl_controller.flowstore.records import FlowFilter
from segctl_controller.flowstore.store import SqlFlowStore, flow_store_on
from segctl_controller.flowstore.tables import meta
from sqlalchemy import update

from tests.flowrows import KnownEnds, flow, key, report


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_stores_nothing_and_is_survived(small_disk: Path) -> None:
    store = flow_store_on(small_disk / "flows.duckdb", KnownEnds())
    assert store.add([report(1, flow())]) == (True,)
    (small_disk / "ballast").write_bytes(bytes(8_000_000)[: _free(small_disk) - 4096])
    many = [flow(key(port=n)) for n in range(20_000)]
    with pytest.raises(StoreFullError, match="nothing was stored; free some space"):
        for sequence in range(2, 30):
            store.add([report(sequence, *many)])
    known = sum(row.flows for row in store.flows(FlowFilter(limit=10**6)))
    (small_disk / "ballast").unlink()
    assert store.add([report(100, flow(key(port=80), flows=7))]) == (True,)
    assert sum(row.flows for row in store.flows(FlowFilter(limit=10**6))) == known + 7
    store.close()
    again = flow_store_on(small_disk / "flows.duckdb", KnownEnds())
    assert sum(row.flows for row in again.flows(FlowFilter(limit=10**6))) == known + 7
    again.close()


def _free(mount: Path) -> int:
    done = subprocess.run(["stat", "-f", "-c", "%a %S", str(mount)], capture_output=True, text=True, check=True)
    blocks, size = map(int, done.stdout.split())
    return blocks * size


def test_a_damaged_file_is_told_with_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "flows.duckdb"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StateError, match="move the file and its"):
        flow_store_on(path, KnownEnds())


def test_a_file_that_another_process_has_open_is_told(tmp_path: Path) -> None:
    path = tmp_path / "flows.duckdb"
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StateError, match="another process has it open"):
            flow_store_on(path, KnownEnds())
        other.kill()


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    flow_store_on(tmp_path / "flows.duckdb", KnownEnds()).close()
    assert (tmp_path / "flows.duckdb").stat().st_mode & 0o777 == 0o600


def test_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "flows.duckdb"
    flow_store_on(path, KnownEnds()).close()
    database = DuckDatabase(path)
    with database.transaction() as work:
        work.run(update(meta).values(value=99))
    with pytest.raises(StateError, match="install the newer one"):
        SqlFlowStore(database, KnownEnds())
    database.close()


def test_space_of_rows_that_went_is_used_again(tmp_path: Path) -> None:
    path, sizes = tmp_path / "flows.duckdb", []
    for sequence in range(1, 7):
        store = flow_store_on(path, KnownEnds())
        store.add([report(sequence, *(flow(key(port=n)) for n in range(30_000)))])
        store.forget("web1")
        assert store.size().rows == 0
        store.close()
        sizes.append(path.stat().st_size)
    assert sizes[-1] <= 2 * sizes[1]
