"""The state folder of an agent: owners, modes, space, identity, the last good generation, the status of the agent."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from segctl import __version__
from segctl.doctor import Finding, ok, problem, unknown, warning
from segctl.errors import StateError
from segctl.machine import look_space

from segctl_agent.credentials import FOLDER, Identity, load_identity
from segctl_agent.execgate.lock import gate_runs
from segctl_agent.execgate.targets import read_targets
from segctl_agent.state import StateFolder

FRESH = timedelta(seconds=30)
"""A running agent writes its status every 5 s."""
ENROL = "segctl token create on the controller, then segctl-agent enrol --replace --token-file - on this host"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the state."""

    path: str
    uid: int
    mode: int


def readable(state: Path) -> bool:
    return os.access(state, os.R_OK | os.X_OK)


def look_folder(state: Path) -> Iterator[Finding]:
    if not state.exists():
        yield problem(
            "state", f"there is no folder {state}: this host is not enrolled", "segctl-agent enrol --token-file -"
        )
        return
    if not readable(state):
        yield unknown("state", f"{state} is not for you to read", "run it as root")
        return
    top = Entry(str(state), state.stat().st_uid, stat.S_IMODE(state.stat().st_mode))
    entries = [
        Entry(str(p), s.st_uid, stat.S_IMODE(s.st_mode))
        for p in (*state.iterdir(), *(state / FOLDER).glob("*"))
        if (s := p.lstat())
    ]
    yield from judge_modes(top, entries)
    yield from look_space(state)


def judge_modes(top: Entry, entries: list[Entry]) -> Iterator[Finding]:
    strange = [e.path for e in entries if e.uid != top.uid]
    if top.mode & 0o077:
        text = f"{top.path} is open to others (mode {top.mode:04o}): it holds the host's key"
        yield problem("state", text, f"chmod 700 {top.path}")
    elif strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        text = (
            f"{', '.join(strange[:3])}{more}: not of uid {top.uid}, the owner of {top.path}: the agent may fail on it"
        )
        yield problem("state", text, f"chown -hR --reference={top.path} {top.path}")
    else:
        yield ok("state", f"{top.path} belongs to uid {top.uid} and to nobody else")


def look_identity(state: Path, now: datetime) -> tuple[list[Finding], Identity | None]:
    """The identity too, for what comes after. Never mends a replacement that was cut off, as loading it would."""
    if not state.exists():
        return [], None
    if not readable(state):
        return [unknown("identity", "the state folder is not for you to read", "run it as root")], None
    if not (state / FOLDER).exists():
        return [problem("identity", "this host is not enrolled", "segctl-agent enrol --token-file -")], None
    try:
        identity = load_identity(state)
    except StateError as error:
        return [problem("identity", str(error), ENROL)], None
    if identity is None:
        return [problem("identity", "this host is not enrolled", "segctl-agent enrol --token-file -")], None
    return list(judge_identity(identity, now)), identity


def judge_identity(identity: Identity, now: datetime) -> Iterator[Finding]:
    who = f"{identity.host} of the fleet {identity.fleet}"
    if identity.complaint(now):
        yield problem("identity", identity.complaint(now), f"timedatectl; if the clock is right: {ENROL}")
    elif identity.late(now):
        left = identity.valid_until - now
        words = f"{left.days} days" if left >= timedelta(days=2) else f"{left.total_seconds() / 3600:.0f} hours"
        text = f"{who}; the certificate ends in {words}, and was not renewed at its half"
        yield warning("identity", text, "segctl-agent renew says why")
    else:
        yield ok("identity", f"{who}; the certificate ends {identity.valid_until:%Y-%m-%d %H:%M} UTC")


def look_generation(folder: StateFolder) -> Iterator[Finding]:
    if not readable(folder.path):
        return
    if folder.held:
        text = f"{folder.held}: every packet passes, nothing is enforced on this host"
        yield problem("release", text, "segctl-agent load, when the emergency is over")
    try:
        reading = folder.read_generation()
    except StateError as error:
        then = "start the agent: the controller sends the generation again; then look for the cause on the disk"
        yield problem("generation", str(error), then)
        return
    if reading.damaged:
        text = f"one of the two stored generations is damaged, the other one counts: {'; '.join(reading.damaged)}"
        yield warning("generation", text, "look at the disk: dmesg, smartctl; the next push writes it anew")
    if reading.stored is None:
        yield warning("generation", "no policy has reached this host yet: everything passes", "segctl push PATH")
    elif not reading.damaged:
        yield ok("generation", f"generation {reading.stored.value.generation} is stored")


def agent_pid(folder: StateFolder) -> int:
    """Of the running agent; 0: none runs, or it cannot be told. Never makes the lock."""
    if not readable(folder.path) or not (folder.path / "lock").exists() or folder.lock_is_free():
        return 0
    pid = (folder.read_status() or {}).get("pid")
    return pid if isinstance(pid, int) else 0


def look_agent(folder: StateFolder, now: datetime) -> Iterator[Finding]:
    if not folder.path.exists():
        return
    if not readable(folder.path):
        yield unknown("agent", "the state folder is not for you to read", "run it as root")
        return
    running = (folder.path / "lock").exists() and not folder.lock_is_free()
    yield from judge_agent(running, folder.read_status() or {}, now)


def judge_agent(running: bool, status: dict[str, Any], now: datetime) -> Iterator[Finding]:
    """`status` is what the agent wrote last."""
    if not running:
        text = "it does not run: rules stay as they are, and follow no new process, address or policy"
        yield problem("agent", text, "systemctl enable --now segctl-agent; journalctl -u segctl-agent -n 50")
        return
    try:
        age = now - datetime.fromisoformat(str(status.get("updated")))
    except ValueError:
        age = FRESH
    state = str(status.get("state", "starting"))
    if age > FRESH:
        silent = int(age.total_seconds())
        text = f"pid {status.get('pid', '?')} has not said anything for {silent} s: it hangs, or the disk is full"
        yield problem("agent", text, "journalctl -u segctl-agent -n 50; systemctl restart segctl-agent")
    else:
        yield ok("agent", f"pid {status.get('pid', '?')}, {state}")
    metrics = str(status.get("metrics", ""))
    if metrics.startswith("metrics: "):
        yield warning("metrics", metrics.removeprefix("metrics: "), "SEGCTL_AGENT_METRICS in a drop-in of the unit")


def judge_version(running: str) -> Iterator[Finding]:
    """`running` is what the agent's status says; empty: it does not say."""
    if running and running != __version__:
        text = f"the agent that runs is {running}, the one that is installed {__version__}"
        yield warning("version", text, "systemctl restart segctl-agent: no packet is lost by it")


def look_gate(folder: StateFolder) -> Iterator[Finding]:
    if not readable(folder.path) or not (folder.path / "executables.json").exists():
        return
    named = sorted({t.workload for t in read_targets(folder.path)})
    if gate_runs(folder.path):
        yield ok("exec-gate", f"it runs, for {', '.join(named)}")
    else:
        text = f"it does not run: no process belongs to {', '.join(named)}"
        yield problem("exec-gate", text, "systemctl enable --now segctl-exec-gate.path")


def utc_now() -> datetime:
    return datetime.now(UTC)
