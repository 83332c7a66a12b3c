"""Starting the agent's units right after enrolment, so that a server joins with one command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from segctl.errors import StateError

UNITS = ("segctl-agent-boot.service", "segctl-agent.service", "segctl-exec-gate.path")
BY_HAND = f"systemctl enable --now {' '.join(UNITS)}"
_MANAGER = Path("/run/systemd/system")


def start_units() -> None:
    """Enables the units, and starts them; an agent that runs with an older identity is restarted. Returns when it is
    ready. Raises StateError with what systemctl said: the host is enrolled all the same."""
    if not _MANAGER.is_dir():
        raise StateError(
            f"this host is enrolled, but systemd does not run here ({_MANAGER} is missing), so nothing was started: "
            "the units start when it boots, if they are enabled"
        )
    _systemctl("enable", *UNITS)
    _systemctl("restart", "segctl-agent.service")
    _systemctl("start", "segctl-exec-gate.path")


def _systemctl(*arguments: str) -> None:
    command = ("systemctl", *arguments)
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise StateError(f"this host is enrolled, but systemctl cannot be run: {error.strerror}") from error
    if done.returncode:
        raise StateError(
            f"this host is enrolled, but `{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}. "
            f"Mend that, then: {BY_HAND}"
        )
