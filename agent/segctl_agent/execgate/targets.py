"""The list that the agent leaves for the exec gate: which files, and for which workloads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segctl.errors import StateError
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import ProcessKind
from segctl.policy.syntax.grammar import check_name, read_process
from segctl.policy.syntax.log import Problem

from segctl_agent.durable import sync_folder, write_durably

FILE = "executables.json"
MOST = 256
"""Files that the gate marks: each one is looked at every second."""
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Processes that run the file at `path`, and the file itself may change, are of `workload`."""

    workload: str
    path: str


def targets_of(policy: HostPolicy) -> tuple[Target, ...]:
    """Sorted by workload: where two name one file, the first has it."""
    return tuple(
        sorted(
            Target(w.name, w.process.pattern)
            for w in policy.workloads
            if w.process is not None and w.process.kind is ProcessKind.EXECUTABLE
        )
    )


def target_notes(policy: HostPolicy) -> tuple[str, ...]:
    """A sentence for each workload that has no place in the list."""
    return tuple(
        f"workload {t.workload}: a host marks at most {MOST} executables, so no process belongs to it"
        for t in targets_of(policy)[MOST:]
    )


def write_targets(folder: Path, policy: HostPolicy) -> None:
    """Brings the list in line with `policy`. There is none while the policy names no executable: the gate then ends.
    Raises StateError."""
    wanted, path = targets_of(policy)[:MOST], folder / FILE
    try:
        if not wanted:
            if path.exists():
                path.unlink()
                sync_folder(folder)
            return
        content = json.dumps([{"workload": t.workload, "path": t.path} for t in wanted], indent=1).encode() + b"\n"
        if not path.exists() or path.read_bytes() != content:
            write_durably(path, content)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}; the exec gate keeps to the list before") from error


def read_targets(folder: Path) -> tuple[Target, ...]:
    """None are wanted where there is no file. Raises StateError for one that cannot be read as a whole."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is not JSON: {error}. The agent writes it anew with the next policy") from error
    if not isinstance(found, list) or len(found) > MOST or len(content) > _LARGEST:
        raise StateError(f"{path} is not a list of at most {MOST} files: is the agent of another version?")
    return _distinct(_target(entry, path) for entry in found)


def _target(entry: object, path: Path) -> Target:
    match entry:
        case {"workload": str(workload), "path": str(file)} if check_name(workload) is None:
            if not isinstance(read_process(ProcessKind.EXECUTABLE, file), Problem):
                return Target(workload, file)
    raise StateError(f"{path} holds {str(entry)[:100]!r}, which names no file of a workload")


def _distinct(targets: Iterable[Target]) -> tuple[Target, ...]:
    by_path: dict[str, Target] = {}
    for target in targets:
        by_path.setdefault(target.path, target)
    return tuple(by_path.values())
