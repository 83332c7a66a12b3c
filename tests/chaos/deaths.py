"""One of two controllers dies or freezes while a push is on trial: the one that runs it, or the other one.

Each function waits for the trial, hurts, and answers what became of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.fleet import parallel
from lab.wait import until
from tests.chaos.chaos import Background
from tests.chaos.replicas import CONTROLLERS, ReplicaChaos

PATIENCE = 30.0
PUSH_SECONDS = 1.5
"""In which a push of two seconds goes through all that it does before it is watched, and some of that."""
LEADER, FOLLOWER = CONTROLLERS


@contextmanager
def _on_trial(chaos: ReplicaChaos, watch: int) -> Iterator[Background]:
    """A push at the LEADER that every host proved, and that is watched for so many seconds."""
    chaos.spread()
    with chaos.pushing(chaos.other(), "--watch", str(watch), "--wait", "10") as push:
        watched = lambda: any(line.get("name") == "watching" for line in push.lines())  # noqa: E731
        until("the push is on trial", lambda: push.has_ended or watched(), 60)
        assert not push.has_ended, f"the push ended before it was watched: {push.end().text}"
        yield push


def leader_killed(chaos: ReplicaChaos) -> str:
    """The other controller ends the trial, at every host."""
    before = chaos.active
    with _on_trial(chaos, 60) as push:
        chaos.kill(LEADER)
        why = _undone(chaos, before)
        push.end(PATIENCE)
    chaos.check()
    assert chaos.active == before
    return f"the controller that ran the push was killed: {why}"


def leader_frozen(chaos: ReplicaChaos) -> str:
    """The same; and when it wakes up, it confirms nothing."""
    before = chaos.active
    watch = 10
    with _on_trial(chaos, watch) as push:
        with chaos.frozen(LEADER):
            why = _undone(chaos, before)
            time.sleep(watch + 1)  # beyond the time after which it would confirm
        pushed = push.end(PATIENCE)
        assert not pushed.confirmed, pushed.text
    chaos.check()
    assert chaos.active == before
    return f"the controller that ran the push stood still: {why}"


def follower_killed(chaos: ReplicaChaos) -> str:
    """Its hosts go on at the other one, on trial; whatever becomes of the push holds for all."""
    with _on_trial(chaos, 5) as push:
        chaos.kill(FOLLOWER)
        pushed = push.end(60)
    return _ended(chaos, pushed.confirmed, pushed.why, f"{FOLLOWER} was killed")


def follower_frozen(chaos: ReplicaChaos) -> str:
    with _on_trial(chaos, 5) as push, chaos.frozen(FOLLOWER):
        pushed = push.end(60)
    return _ended(chaos, pushed.confirmed, pushed.why, f"{FOLLOWER} stood still")


def killed_at_any_moment(chaos: ReplicaChaos) -> str:
    """Between two steps of a push as within one, also amid a transaction."""
    return _at_any_moment(chaos, frozen=False)


def frozen_at_any_moment(chaos: ReplicaChaos) -> str:
    """Also amid a transaction, with its locks: the database ends that."""
    return _at_any_moment(chaos, frozen=True)


def _at_any_moment(chaos: ReplicaChaos, *, frozen: bool) -> str:
    chaos.spread()
    hurt, after = chaos.random.choice(CONTROLLERS), chaos.random.uniform(0, PUSH_SECONDS)
    with chaos.pushing(chaos.other(), "--watch", "1", "--wait", "10") as push:
        until("the push has begun", lambda: push.has_ended or push.lines(), 60)
        time.sleep(after)
        late = ", which was over" if push.has_ended else ""
        if frozen:
            with chaos.frozen(hurt), chaos.fleet.asking(chaos.fleet.other(hurt)):
                _decided(chaos)
                parallel(lambda host: _moved(chaos, host, chaos.fleet.other(hurt)), chaos.hosts)
                chaos.sound()
        else:
            chaos.kill(hurt)
            with chaos.fleet.asking(chaos.fleet.other(hurt)):
                _decided(chaos)
        pushed = push.end(60)
    what = f"{hurt} {'stood still' if frozen else 'was killed'} {after:.2f} s into a push{late}"
    return _ended(chaos, pushed.confirmed, pushed.why, what)


def _undone(chaos: ReplicaChaos, before: str) -> str:
    """Why, as the other controller tells it, once every host returned."""
    with chaos.fleet.asking(FOLLOWER):
        parallel(lambda host: _returned(chaos, host, before), chaos.hosts)
        assert _decided(chaos) == "undone"
        chaos.sound()
        return str(chaos.fleet.document("history", "--limit", "1")[0]["why"])


def _decided(chaos: ReplicaChaos) -> str:
    """What became of the newest generation, once it is not on trial any more."""

    def state() -> str:
        newest = chaos.fleet.document("history", "--limit", "1")[0]["state"]
        return "" if newest == "trial" else str(newest)

    return until("the push is decided", state, PATIENCE, every=0.2)


def _returned(chaos: ReplicaChaos, host: str, before: str) -> None:
    until(f"{host} returned to {before}", lambda: chaos.whole(host) == before, PATIENCE, every=0.2)


def _moved(chaos: ReplicaChaos, host: str, controller: str) -> None:
    until(f"{host} is at {controller}", lambda: chaos.fleet.controller_of(host) == controller, PATIENCE, every=0.2)


def _ended(chaos: ReplicaChaos, confirmed: bool, why: str, what: str) -> str:
    wanted = chaos.between[1]
    chaos.check()
    assert not confirmed or chaos.active == wanted, f"{wanted} was told as confirmed, and {chaos.active} is active"
    return f"{what}: {chaos.active} of {wanted} is in force; {why}"


DEATHS = (leader_killed, leader_frozen, follower_killed, follower_frozen)
AT_ANY_MOMENT = (killed_at_any_moment, frozen_at_any_moment)
BY_HAND = frozenset((follower_killed, follower_frozen))
"""Left out of every run, as in faults.py."""
