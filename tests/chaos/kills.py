"""kill -9 at every step: of a push, an enrolment, a renewal, a report and a start; of the agent and of the controller.

A step is a syscall that makes something durable or visible to others (stepper.py), so there is nothing to kill between
two of them. Each function kills at one step and answers what it saw.
"""

from __future__ import annotations

from lab.fleet import LabError
from lab.wait import until
from tests.chaos.chaos import Chaos
from tests.chaos.fleet import SPARE, Killed, Step, Stepper

KNOCKS = 20


def agent_in_push(chaos: Chaos, step: Step) -> Killed:
    host = chaos.random.choice(chaos.hosts)
    stepper = Stepper(step, chaos.fleet.agent_pid(host))
    with chaos.pushing(chaos.other(), "--wait", "3") as push:
        until("the push is over, or the agent killed", lambda: push.has_ended or stepper.has_ended, 60)
        killed = stepper.ended()
        if killed.killed:
            chaos.bury_agent(host)
            chaos.whole(host)
            chaos.fleet.start_agent(host)
    return killed


def controller_in_push(chaos: Chaos, step: Step) -> Killed:
    stepper = Stepper(step, chaos.fleet.controller_pid())
    with chaos.pushing(chaos.other(), "--wait", "3") as push:
        until("the push is over, or the controller killed", lambda: push.has_ended or stepper.has_ended, 60)
        killed = stepper.ended()
        if killed.killed:
            chaos.bury_controller()
            push.end()
            chaos.sound()
            chaos.fleet.start_controller()
    return killed


def agent_at_start(chaos: Chaos, step: Step) -> Killed:
    host = chaos.random.choice(chaos.hosts)
    chaos.bury_agent(host)
    killed = chaos.fleet.start_agent_until(host, step)
    chaos.whole(host)
    chaos.fleet.start_agent(host)
    return killed


def controller_in_report(chaos: Chaos, step: Step) -> Killed:
    """Whatever the agents reported meanwhile arrives once, no more and no less."""
    stepper = Stepper(step, chaos.fleet.controller_pid())
    port = chaos.witness.knock(KNOCKS)
    try:
        until("the controller is killed, or the report stored", lambda: stepper.has_ended or chaos.denied("api1", port))
    except (LabError, ValueError):
        until("the controller is killed: it did not answer", lambda: stepper.has_ended)
    killed = stepper.ended()
    if killed.killed:
        chaos.bury_controller()
        chaos.fleet.start_controller()
    chaos.await_denied("api1", port, KNOCKS)
    return killed


def agent_in_report(chaos: Chaos, step: Step) -> Killed:
    """What the controller told before is told after; what the agent had not sent went with it."""
    stepper = Stepper(step, chaos.fleet.agent_pid("api1"))
    port = chaos.witness.knock(KNOCKS)
    until("the agent is killed, or its report stored", lambda: stepper.has_ended or chaos.denied("api1", port))
    killed = stepper.ended()
    before = chaos.denied("api1", port)
    if killed.killed:
        chaos.bury_agent("api1")
        chaos.fleet.start_agent("api1")
    after = chaos.denied("api1", port)
    assert before <= after <= KNOCKS, f"{before} denials were told, {after} are told now, {KNOCKS} there were"
    return killed


def agent_in_enrolment(chaos: Chaos, step: Step) -> Killed:
    """It is enrolled or not, whole in both cases, and can be enrolled again."""
    done, killed = chaos.fleet.enrol_until(SPARE, _token(chaos), step)
    assert killed.killed or done.returncode == 0, done.stderr
    _is_whole_or_none(chaos)
    _enrols(chaos)
    return killed


def controller_in_enrolment(chaos: Chaos, step: Step) -> Killed:
    token = _token(chaos)
    stepper = Stepper(step, chaos.fleet.controller_pid())
    done, _ = chaos.fleet.enrol_until(SPARE, token, Step(0))
    killed = stepper.ended()
    if killed.killed:
        chaos.bury_controller()
        chaos.fleet.start_controller()
    assert killed.killed or done.returncode == 0, done.stderr
    _is_whole_or_none(chaos)
    _enrols(chaos)
    return killed


def agent_in_renewal(chaos: Chaos, step: Step) -> Killed:
    """At no step is the host without a certificate that holds, and the next renewal works."""
    host = chaos.random.choice(chaos.hosts)
    done, killed = chaos.fleet.renew_until(host, step)
    assert killed.killed or done.returncode == 0, done.stderr
    _renews(chaos, host)
    return killed


def controller_in_renewal(chaos: Chaos, step: Step) -> Killed:
    host = chaos.random.choice(chaos.hosts)
    stepper = Stepper(step, chaos.fleet.controller_pid())
    done, _ = chaos.fleet.renew_until(host, Step(0))
    killed = stepper.ended()
    if killed.killed:
        chaos.bury_controller()
        chaos.fleet.start_controller()
    assert killed.killed or done.returncode == 0, done.stderr
    _renews(chaos, host)
    return killed


def _renews(chaos: Chaos, host: str) -> None:
    """A new connection with what the host has now, and one with what it gets."""
    chaos.restart(host)
    chaos.fleet.await_in_sync(60)
    done, _ = chaos.fleet.renew_until(host, Step(0))
    assert done.returncode == 0, f"the certificate cannot be renewed again: {done.stderr}"
    chaos.restart(host)


def _token(chaos: Chaos) -> str:
    return chaos.fleet.token(SPARE, "--replace")


def _is_whole_or_none(chaos: Chaos) -> None:
    done = chaos.fleet.agent_command(SPARE, "status")
    assert done.returncode == 3 or "is not enrolled" in done.stderr, done.stdout + done.stderr


def _enrols(chaos: Chaos) -> None:
    done, _ = chaos.fleet.enrol_until(SPARE, _token(chaos), Step(0))
    assert done.returncode == 0, f"it cannot be enrolled again: {done.stderr}"
    done = chaos.fleet.agent_command(SPARE, "status")
    assert done.returncode == 3, done.stdout + done.stderr  # no agent runs there, and all else is well


KILLS = (
    agent_in_push,
    controller_in_push,
    agent_at_start,
    controller_in_report,
    agent_in_report,
    agent_in_enrolment,
    controller_in_enrolment,
    agent_in_renewal,
    controller_in_renewal,
)
SAMPLE = {
    agent_in_push: (Step(1, "netlink: a transaction"), Step(2, "rename .*generation")),
    controller_in_push: (Step(1, "fdatasync"),),
    agent_at_start: (Step(1, "netlink: a transaction"),),
    controller_in_report: (Step(1, "fdatasync"),),
    agent_in_enrolment: (Step(1, r"rename \S*/identity.new "),),
    controller_in_enrolment: (Step(1, "fdatasync"),),
    agent_in_renewal: (Step(1, r"rename .*identity"),),
    controller_in_renewal: (Step(1, "fdatasync"),),
}
"""What every test run kills at; `python -m tests.chaos --every-step` goes through all."""
