"""All checks of a host, in the order of their causes: what is below first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segctl.doctor import Check, Diagnosis, Finding, examine
from segctl.machine import look_clock, look_journal, look_units

from segctl_agent.doctor import channel, folder, kernel, table
from segctl_agent.render import MarkLayout
from segctl_agent.state import StateFolder

UNITS = ("segctl-agent.service", "segctl-agent-boot.service")


def diagnose(state: Path, layout: MarkLayout) -> Diagnosis:
    """Changes nothing. Without privilege it says what it could not look at."""
    home, now = StateFolder(state), folder.utc_now()
    told, identity = folder.look_identity(state, now)
    pid = folder.agent_pid(home)
    status = (home.read_status() or {}) if folder.readable(state) else {}

    def running() -> Iterator[Finding]:
        yield from folder.look_agent(home, now)
        if pid:
            yield from kernel.judge_capabilities(kernel.capabilities(pid))
            yield from folder.judge_version(str(status.get("version") or ""))

    checks: list[tuple[str, Check]] = [
        ("kernel", kernel.look),
        ("cgroups", kernel.look_cgroups),
        ("conntrack-fill", kernel.look_fill),
        ("state", lambda: folder.look_folder(state)),
        ("identity", lambda: told),
        ("clock", look_clock),
        ("generation", lambda: folder.look_generation(home)),
        ("units", lambda: look_units(*UNITS)),
        ("agent", running),
        ("journal", look_journal),
    ]
    if identity is not None:
        checks += [
            ("controller", lambda: channel.look(state, identity, status if pid else {})),
            ("table", lambda: table.look(home, identity, layout, running=bool(pid))),
        ]
    checks += [
        ("neighbours", lambda: table.look_others(layout)),
        ("nflog", lambda: table.look_nflog(pid)),
        ("exec-gate", lambda: folder.look_gate(home)),
    ]
    return examine(f"host {identity.host}" if identity is not None else "this host", checks)
