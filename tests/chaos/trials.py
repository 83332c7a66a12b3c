"""What is lost while a push is on trial: the way between controller and host, the controller, the command line.

Each function waits for the trial, hurts, and answers what became of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.fleet import parallel
from lab.wait import until
from tests.chaos.chaos import Background, Chaos

PATIENCE = 30.0


@contextmanager
def _on_trial(chaos: Chaos, watch: int) -> Iterator[Background]:
    """A push that every host proved, and that is watched for so many seconds."""
    with chaos.pushing(chaos.other(), "--watch", str(watch), "--wait", "3") as push:
        until(
            "the push is on trial",
            lambda: push.has_ended or any(line.get("name") == "watching" for line in push.lines()),
            60,
        )
        assert not push.has_ended, f"the push ended before it was watched: {push.end().text}"
        yield push


def partition_in_trial(chaos: Chaos) -> str:
    """The host that is cut off returns by itself, and takes all others with it."""
    before, host, controller = chaos.active, chaos.random.choice(chaos.hosts), chaos.fleet.control.name
    with _on_trial(chaos, 10) as push:
        chaos.fleet.lab.cut(host, controller)
        chaos.fleet.lab.cut(controller, host)
        until(f"{host} returned to {before}", lambda: chaos.whole(host) == before, PATIENCE, every=0.2)
        pushed = push.end(PATIENCE)
        assert pushed.undone, pushed.text
        parallel(lambda name: _returned(chaos, name, before), chaos.hosts)
        chaos.sound()
        chaos.fleet.lab.mend()
    chaos.check()
    assert chaos.active == before
    return f"{host} was cut off amid a trial: {pushed.why}"


def controller_killed_in_trial(chaos: Chaos) -> str:
    """All hosts return by themselves; the controller says so when it is back."""
    before = chaos.active
    with _on_trial(chaos, 60) as push:
        chaos.bury_controller()
        parallel(lambda host: _returned(chaos, host, before), chaos.hosts)
        push.end(PATIENCE)
        chaos.sound()
        chaos.fleet.start_controller()
    chaos.check()
    assert chaos.active == before
    newest = chaos.fleet.document("history", "--limit", "1")[0]
    assert newest["state"] == "undone", newest
    return f"the controller was killed amid a trial: {newest['why']}"


def command_line_killed_in_trial(chaos: Chaos) -> str:
    """The push goes on without it."""
    with _on_trial(chaos, 2) as push:
        push.process.kill()
        push.end()
    wanted = chaos.between[1]
    until("the push is confirmed", lambda: _newest_state(chaos) == "confirmed", PATIENCE, every=0.5)
    chaos.check()
    assert chaos.active == wanted
    return "the command line was killed amid a trial, which was confirmed all the same"


def _returned(chaos: Chaos, host: str, before: str) -> None:
    until(f"{host} returned to {before}", lambda: chaos.whole(host) == before, PATIENCE, every=0.2)


def _newest_state(chaos: Chaos) -> str:
    return str(chaos.fleet.document("history", "--limit", "1")[0]["state"])


TRIALS = (partition_in_trial, controller_killed_in_trial, command_line_killed_in_trial)
