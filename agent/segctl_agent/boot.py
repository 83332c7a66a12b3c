"""The first thing an agent does: the last good generation in force, before it talks to anyone."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from segctl.errors import StateError
from segctl.logs import Event, about
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import HOST_WORKLOAD, Mode

from segctl_agent.decisions import turn_from_number
from segctl_agent.enforcer import Enforcer
from segctl_agent.state import StateFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Boot:
    """What came of it. `policy` is None when there is none to enforce; `problems` an operator must know."""

    status: str
    policy: HostPolicy | None = None
    problems: tuple[str, ...] = ()


def closed_policy(host: str) -> HostPolicy:
    """Only the built-in essentials and the agent's own channel pass."""
    return HostPolicy(host, 0, "", (LocalWorkload(HOST_WORKLOAD, None, Mode.ENFORCE),))


def put_last_good(folder: StateFolder, host: str, enforcer: Enforcer) -> Boot:
    """Raises KernelError. Without a generation nothing is applied; with damaged ones the host stays as closed as it
    was, or is closed."""
    held = folder.held
    if held:
        text = f"{held}: nothing is enforced until `segctl-agent load` or a reboot ends the release"
        log.warning(text)
        return Boot("released", problems=(text,))
    try:
        reading = folder.read_generation()
    except StateError as error:
        log.critical("%s", error)
        if enforcer.adopt():
            text = f"the rules that the kernel held stay in force: {error}"
            return Boot("unknown generation, rules left as they were", problems=(text,))
        enforcer.put(closed_policy(host))
        text = f"the host is closed but for the essentials: {error}"
        log.critical("closed: only the essentials and the agent's own channel pass")
        return Boot("closed", problems=(text,))
    for damage in reading.damaged:
        log.error("a stored generation is damaged, the other one is used: %s", damage)
    if reading.stored is None:
        if folder.first_trial:
            log.warning("the first generation was on trial when the agent ended: nothing is enforced, as before")
            enforcer.destroy()
            folder.end_first_trial()
        enforcer.adopt()
        log.info("no generation yet: the controller sends the first one")
        return Boot("no generation yet", problems=reading.damaged)
    policy, turn = reading.stored.value, turn_from_number(reading.stored.turn)
    if policy.host != host:
        text = f"the stored generation is of the host {policy.host!r}, this is {host!r}: it is not applied"
        log.error(text)
        enforcer.adopt()
        return Boot("no generation yet", problems=(text,))
    applied = enforcer.resume(policy, turn)
    problems = list(reading.damaged)
    if applied.turn != turn:
        try:
            folder.write_generation(policy, applied.turn)
        except StateError as error:
            log.error("%s", error)
            problems.append(str(error))
    log.info(
        "generation %d is in force from disk in %d us, decision ids %s",
        policy.generation,
        applied.apply_us,
        applied.turn,
        extra=about(
            Event.POLICY,
            generation=policy.generation,
            digest=policy.policy_digest,
            duration_us=applied.apply_us,
        ),
    )
    return Boot(f"generation {policy.generation} in force", policy, tuple(problems))
