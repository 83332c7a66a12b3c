"""A backup of the controller in one file, taken while it runs, and its restore.

The file is a gzipped tar: manifest.json (with the SHA-256 of all others), controller.json, ca.pem, ca.key and
controller.db, an SQLite file, whichever database it was taken of; so it can be restored into either. It holds the CA
key: whoever reads it can be any host and any operator of the fleet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from urllib.parse import quote

from segctl import __version__
from segctl.auditchain import GENESIS, link_hash
from segctl.errors import StateError

from segctl_controller import rotation
from segctl_controller.clock import Clock
from segctl_controller.config import CONFIG_FILE, DATABASE_FILE, Config, load_config, save_config
from segctl_controller.database import where_is
from segctl_controller.lock import alone
from segctl_controller.moving import export, fill
from segctl_controller.setup import SHELL
from segctl_controller.store.conninfo import parse_conninfo
from segctl_controller.store.records import Entry
from segctl_controller.store.sql import SqlStore

FORMAT = 1
MANIFEST = "manifest.json"
SCRATCH = ".restore."
FILES = ("ca.key", "ca.pem", DATABASE_FILE, CONFIG_FILE)
"""In the order in which a restore puts them in place, after those of a rotation of the CA (rotation.FILES) if one is
under way: a directory with the last one is whole."""
LARGEST_MANIFEST = 1 << 20
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """`sha256` is by the name of the file, in hexadecimal. `generation` was the newest one; 0: nothing was pushed."""

    fleet: str
    taken_us: int
    version: str
    generation: int
    hosts: int
    sha256: dict[str, str]
    format: int = FORMAT

    @property
    def taken(self) -> str:
        return f"{datetime.fromtimestamp(self.taken_us / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"


def take_backup(directory: Path, to: Path, clock: Clock) -> Manifest:
    """Writes the new file `to` (0600), whole or not at all. Raises StateError, also for a database that is damaged."""
    config = load_config(directory)
    rotation.load_cas(directory, config.fleet)
    if to.exists():
        raise StateError(f"{to}: is there already, and no backup is overwritten; name another file")
    taken_us = clock.now_us()
    try:
        with rotation.rotating(directory), TemporaryDirectory(dir=to.parent, prefix=".segctl-backup.") as scratch:
            copy, archive = Path(scratch) / DATABASE_FILE, Path(scratch) / "archive"
            entry = Entry(taken_us, SHELL, "backup", str(to))
            where = where_is(directory)
            if where is None:
                _note(directory / DATABASE_FILE, entry)
                _copy_database(directory / DATABASE_FILE, copy)
            else:
                export(where, copy, entry)
            generation, hosts = _found_whole(copy, directory)
            names = (*(name for name in rotation.FILES if (directory / name).exists()), *FILES)
            parts = {name: copy if name == DATABASE_FILE else directory / name for name in names}
            sums = {name: _sum(part) for name, part in parts.items()}
            manifest = Manifest(config.fleet, taken_us, __version__, generation, hosts, sums)
            _pack(archive, manifest, parts)
            archive.rename(to)
            _sync(to.parent)
    except OSError as error:
        raise StateError(f"{to}: the backup cannot be written: {error.strerror or error}") from error
    return manifest


def restore(source: Path, directory: Path, replace: bool, clock: Clock, database: str | None = None) -> Manifest:
    """Puts a verified backup into `directory`, and its rows into `database`: see Config; None: where they came from.
    What was there is moved aside with `replace`, and else an error.

    Raises StateError: nothing was changed then, unless the message says otherwise.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(directory), _unpacked(source, directory, replace) as (fresh, manifest, config):
            _note_restore(fresh / DATABASE_FILE, manifest, clock)
            if database is not None:
                config = dataclasses.replace(config, database=database)
                save_config(fresh, config)
            if config.database:
                fill(parse_conninfo(config.database, directory), fresh / DATABASE_FILE, replace, clock)
                (fresh / DATABASE_FILE).unlink()
            _put_in_place(fresh, directory, clock)
    except OSError as error:
        raise StateError(f"{directory}: the restore failed: {error.strerror or error}; run it again") from error
    return manifest


def join(source: Path, directory: Path, listen: str, clock: Clock) -> Config:
    """Makes `directory` that of one more controller of a fleet on PostgreSQL: CA and configuration come from a backup,
    and the rows stay where they are. `listen`: see Config. Raises StateError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(directory), _unpacked(source, directory, replace=False) as (fresh, _, config):
            if not config.database:
                raise StateError(
                    f"{source}: that fleet is in an SQLite file, which one controller has; take it to PostgreSQL first "
                    "(segctl-controller move --to CONNINFO), then take a new backup"
                )
            config = dataclasses.replace(config, listen=listen)
            save_config(fresh, config)
            (fresh / DATABASE_FILE).unlink()
            _put_in_place(fresh, directory, clock)
    except OSError as error:
        raise StateError(f"{directory}: cannot be prepared: {error.strerror or error}; run it again") from error
    return config


@contextmanager
def _unpacked(source: Path, directory: Path, replace: bool) -> Iterator[tuple[Path, Manifest, Config]]:
    """The verified files of a backup, in a directory that goes. Raises StateError, also for a controller that is in
    `directory` unless it is to be replaced."""
    present = [name for name in FILES if (directory / name).exists()]
    if present and not replace:
        raise StateError(
            f"{directory}: there is a controller already ({', '.join(present)}); --replace moves its files "
            "aside, into a directory replaced-*"
        )
    for left in directory.glob(f"{SCRATCH}*"):  # of a restore that was killed
        shutil.rmtree(left)
    with TemporaryDirectory(dir=directory, prefix=SCRATCH) as scratch:
        fresh = Path(scratch)
        manifest = _unpack(source, fresh)
        yield fresh, manifest, _verify(fresh, manifest, source)


def _copy_database(path: Path, copy: Path) -> None:
    """A consistent copy, also while a controller writes (https://sqlite.org/backup.html)."""
    try:
        with closing(_open(path, "ro")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _no_copy(path, error) from error


def _no_copy(path: Path, error: Exception) -> StateError:
    return StateError(
        f"{path}: no backup was taken, the database cannot be copied ({error}); restore the last backup: "
        f"segctl-controller restore --from BACKUP --state {path.parent} --replace"
    )


def _found_whole(copy: Path, directory: Path) -> tuple[int, int]:
    """The newest generation and the number of hosts. Raises StateError for a copy that is damaged."""
    try:
        return _look_through(copy)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _no_copy(directory / DATABASE_FILE, error) from error


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=30.0)


def _look_through(path: Path) -> tuple[int, int]:
    """Raises sqlite3.Error."""
    with closing(_open(path, "ro")) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        (newest,) = connection.execute("SELECT max(number) FROM generations").fetchone()
        (hosts,) = connection.execute("SELECT count(*) FROM hosts").fetchone()
    return newest or 0, hosts


def _note(path: Path, entry: Entry) -> None:
    """By SQL, and not through the store: that one might bring the schema up under an older controller that runs."""
    values: dict[str, str | int] = {"at_us": entry.at_us, **dict(zip(entry.TEXTS, entry.texts, strict=True))}
    try:
        with closing(_open(path, "rw")) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            known = {name for _, name, *_ in connection.execute("PRAGMA table_info(audit)")}
            if "hash" in known:  # else it is of before the chain, and is chained when a newer controller starts
                newest = connection.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
                sequence, previous = newest.fetchone() or (0, GENESIS)
                values |= {"sequence": sequence + 1, "previous": previous}
                values["hash"] = link_hash(previous, sequence + 1, entry.at_us, *entry.texts)
            names = sorted(values.keys() & known)
            marks = ", ".join(f":{name}" for name in names)
            connection.execute(f"INSERT INTO audit ({', '.join(names)}) VALUES ({marks})", values)  # noqa: S608
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise StateError(
            f"{path}: the backup cannot be noted in the audit log, so it was not taken: {error}"
        ) from error


def _pack(archive: Path, manifest: Manifest, parts: dict[str, Path]) -> None:
    with os.fdopen(_private(archive), "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as tar:
            text = json.dumps(asdict(manifest), indent=2).encode() + b"\n"
            _add(tar, MANIFEST, len(text), io.BytesIO(text), manifest)
            for name, part in parts.items():
                with part.open("rb") as content:
                    _add(tar, name, part.stat().st_size, content, manifest)
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes], manifest: Manifest) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, manifest.taken_us // 1_000_000
    tar.addfile(member, content)


def _unpack(source: Path, fresh: Path) -> Manifest:
    """Raises StateError for what is no whole backup. Only files that belong to one are written, by our own names."""
    try:
        with tarfile.open(source, "r:gz") as tar:
            first = tar.next()
            content = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
            if content is None:
                raise StateError(f"{source}: is no backup of a segctl controller")
            manifest = Manifest(**json.loads(content.read(LARGEST_MANIFEST)))
            names = set(manifest.sha256)
            if manifest.format != FORMAT or not set(FILES) <= names <= {*FILES, *rotation.FILES}:
                raise StateError(
                    f"{source}: a backup of format {manifest.format}, and this version reads {FORMAT}; restore it with "
                    f"segctl {manifest.version}"
                )
            while (member := tar.next()) is not None:
                part = tar.extractfile(member)
                if member.name not in names or part is None:
                    raise StateError(f"{source}: holds {member.name!r}, which belongs to no backup")
                with os.fdopen(_private(fresh / member.name), "wb") as file:
                    shutil.copyfileobj(part, file, PIECE)
                    file.flush()
                    os.fsync(file.fileno())
            while tar.fileobj is not None and tar.fileobj.read(PIECE):
                pass  # to the checksum of the whole, which the manifest has no other than
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError) and error.filename == str(source):
            raise StateError(f"{source}: cannot be read: {error.strerror}") from error
        raise StateError(
            f"{source}: the backup is damaged or cannot be unpacked ({error}); take another one"
        ) from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise StateError(f"{source}: the backup is damaged ({error}); take another one") from error
    return manifest


def _verify(fresh: Path, manifest: Manifest, source: Path) -> Config:
    for name, wanted in manifest.sha256.items():
        if not (fresh / name).exists() or _sum(fresh / name) != wanted:
            raise StateError(f"{source}: {name} in it is missing or damaged; take another backup")
    config = load_config(fresh)
    rotation.load_cas(fresh, config.fleet)
    if config.fleet != manifest.fleet:
        raise StateError(f"{source}: its files are of two fleets ({config.fleet}, {manifest.fleet})")
    try:
        _look_through(fresh / DATABASE_FILE)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise StateError(f"{source}: the database in it is damaged ({error}); take another backup") from error
    return config


def _note_restore(path: Path, manifest: Manifest, clock: Clock) -> None:
    detail = f"restored from backup of {manifest.taken} (segctl {manifest.version}, generation {manifest.generation})"
    store = SqlStore(path)
    try:
        store.mark_restored(manifest.taken_us, Entry(clock.now_us(), SHELL, "restore", "controller", detail))
    finally:
        store.close()


def _put_in_place(fresh: Path, directory: Path, clock: Clock) -> None:
    """First the old configuration goes, last the new one comes: nothing between is taken for a controller."""
    old = [name for name in (CONFIG_FILE, *FILES[:-1], *rotation.FILES) if (directory / name).exists()]
    old += [name for suffix in ("-wal", "-shm") if (directory / (name := DATABASE_FILE + suffix)).exists()]
    if old:
        aside = directory / f"replaced-{clock.now():%Y%m%dT%H%M%S}-{time.monotonic_ns() % 10_000:04d}"
        aside.mkdir(mode=0o700)
        _leave_to_owner(aside, directory)
        for name in old:
            (directory / name).rename(aside / name)
    for name in (*rotation.FILES, *FILES):
        if (fresh / name).exists():
            _leave_to_owner(fresh / name, directory)
            (fresh / name).rename(directory / name)
    _sync(directory)


def _leave_to_owner(path: Path, directory: Path) -> None:
    """root may restore, the controller's user runs it: the files belong to whom the directory belongs."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
