"""What root leaves to others when it sets up a controller: the state to the controller's user, the first credentials to
whoever asked."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segctl.cli.exits import CliError

UNIT = "segctl-controller.service"
CREDENTIALS = ("client.json", "ca.pem", "cert.pem", "key.pem")


@dataclass(frozen=True, slots=True)
class Account:
    """A user by numbers, and its home."""

    uid: int
    gid: int
    home: Path


def owner_of(state: Path) -> Account | None:
    """The user that the state folder was made for, when this is root and the folder is another's; else None."""
    if os.geteuid() != 0 or not state.is_dir():
        return None
    status = state.stat()
    return Account(status.st_uid, status.st_gid, state) if status.st_uid else None


def caller(environment: Mapping[str, str]) -> Account | None:
    """Who used sudo to become root; None for anybody else."""
    name = environment.get("SUDO_USER")
    if os.geteuid() != 0 or not name or name == "root":
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


@contextmanager
def staging(owner: Account) -> Iterator[Path]:
    """A folder that the controller's user may write credentials to, and that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="segctl-init."))
    try:
        os.chown(folder, owner.uid, owner.gid)
        yield folder / "credentials"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_taken(target: Path) -> None:
    """Raises CliError when `target` holds credentials."""
    taken = [name for name in CREDENTIALS if (target / name).exists()]
    if taken:
        raise CliError(f"{target} holds {', '.join(taken)} already", "Choose another --admin-out, or move them away.")


def deliver(source: Path, target: Path, to: Account | None) -> None:
    """Copies the credentials into `target` with the rights of `to`, root's when None. Raises CliError."""
    contents = {name: (source / name).read_bytes() for name in CREDENTIALS}
    if to is not None:
        # Its folders may hold links of its making: nothing is written there with root's rights.
        os.setegid(to.gid)
        os.seteuid(to.uid)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in contents.items():
            handle = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
    except OSError as error:
        raise CliError(
            f"the controller is set up, but its first credentials cannot be written to {target}: {error.strerror}",
            "Make others: segctl-controller admin add NAME --role admin --out DIR, as the controller's user.",
        ) from error
    finally:
        if to is not None:
            os.seteuid(0)
            os.setegid(0)


def start() -> None:
    """Enables and starts the controller's unit; returns when it serves. Raises CliError."""
    command = ["systemctl", "enable", "--now", UNIT]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise CliError(f"the controller is set up, but systemctl cannot be run: {error.strerror}") from error
    if done.returncode:
        raise CliError(
            f"the controller is set up, but `{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}",
            f"Look at: journalctl -u {UNIT}",
        )
