"""`segctl-agent exec-gate`: one gate a host, the worker under its watchdog."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path

from segctl.errors import StateError
from segctl.systemd import Notifier

from segctl_agent.execgate.gate import Gate
from segctl_agent.execgate.lock import lock_gate
from segctl_agent.execgate.watchdog import supervise
from segctl_agent.facts.cgroups import find_cgroup2_root

log = logging.getLogger(__name__)


def run_gate(folder: Path, notifier: Notifier) -> int:
    """0 when no executable is named any more, or after SIGTERM; 1 when the worker was killed or failed. Raises
    StateError."""
    if os.geteuid() != 0:
        raise StateError("the exec gate runs as root: the cgroups it makes are told from others by their owner")
    root = find_cgroup2_root()
    if lock_gate(folder) is None:
        raise StateError(f"another exec gate runs with the state folder {folder}")

    def work(alive: Callable[[], None]) -> int:
        try:
            gate = Gate(folder, root, alive)
            busy = gate.start()
            notifier.ready("marks are set" if busy else "the policy names no executable")
            gc.collect()
            gc.freeze()
            gate.run()
        except (StateError, OSError) as error:
            log.error("the exec gate ends, and every exec goes on: %s", error)
            return 1
        return 0

    return supervise(work)
