"""What controllers that share one database tell each other: who serves, which of them has each host, and the trial that
one of them runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from segctl_controller.store import generations as store_generations
from segctl_controller.store.dialect import upsert
from segctl_controller.store.notices import Topic
from segctl_controller.store.records import GenerationRecord, GenerationState
from segctl_controller.store.tables import fleet, generations, presence, questions, replicas, trials
from segctl_controller.store.transactions import Transactions


@dataclass(frozen=True, slots=True)
class Presence:
    """The host's agent talks to `replica`, or did last; `standing` is what that one knows of it, as text. Of two rows
    the one with the higher `version` was stored later."""

    host: str
    replica: str
    standing: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """The trial of a generation as the controller that runs it, `replica`, has it: the hosts in each phase (by name of
    the phase), and its step, a serialized PushPhase. `ended_by`: who wants it undone, and why."""

    generation: int
    replica: str
    phases: Mapping[str, Sequence[str]]
    accept_denials: bool = False
    step: bytes = b""
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class Beat:
    """One look at who serves: the endpoint of each controller and how often it has looked so far. `anew`: this one was
    not among them, for it just came or was given up. `presence`: the newest version of a Presence."""

    replicas: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    anew: bool = False
    presence: int = 0


@dataclass(frozen=True, slots=True)
class Pushes:
    """The newest generation, without files; the number of the one that is active; and the trial that is stored."""

    newest: GenerationRecord | None = None
    active: int = 0
    trial: TrialRecord | None = None


@dataclass(frozen=True, slots=True)
class QuestionRecord:
    """What the replica `asker` wants `target` to ask the host. `number` is the asker's own, `id` the order of all."""

    asker: str
    number: int
    target: str
    host: str
    kind: str
    body: bytes = field(repr=False)
    id: int = 0


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """To the question of that id, which its asker knows by `number`; or why there is none."""

    id: int
    number: int
    answer: bytes = field(repr=False)
    error: str = ""


class SharedStore(Protocol):
    """Synchronous but for `beats`; called as a Store is. `presences`, `pushes` and `questions` may be called by a
    second thread, and wait for nobody who writes."""

    def claim(self, fleet_id: str) -> str:
        """The fleet that this database is of: `fleet_id`, where it was of none so far."""

    def beats(self, replica: str, endpoint: str) -> AsyncGenerator[Beat | None, None]:
        """Counts for `replica` and looks, once in BEAT_SECONDS, for ever; None: the database did not answer."""

    def tell(self, replica: str, claims: Mapping[str, str], updates: Mapping[str, str]) -> int:
        """Standings by host. A claim is of a session that began, and takes the host from another controller; an update
        counts where no other controller has claimed the host. Returns the version that was stored."""

    def presences(self, since: int, but: str) -> tuple[Presence, ...]:
        """With a higher version than `since`, by version, without those of the replica `but`."""

    def forget(self, replica: str, beats: int | None = None) -> None:
        """It serves no more. `beats`: unless it has looked again since that."""

    def keep_trial(self, trial: TrialRecord) -> None:
        """All but `ended_by`, while the generation is on trial."""

    def pushes(self) -> Pushes: ...

    def end_trial(self, generation: int, by: str) -> None:
        """Ask the controller that runs it to undo it. The first who asks is told."""

    def ask(self, asked: Sequence[QuestionRecord]) -> None: ...

    def questions(self, target: str, since: int) -> tuple[QuestionRecord, ...]:
        """That have no answer and a higher id than `since`, by id."""

    def answer(self, told: Sequence[AnswerRecord]) -> None:
        """Those that nobody waits for any more are ignored."""

    def answers(self, asker: str) -> tuple[AnswerRecord, ...]:
        """To its questions; they are forgotten by this."""

    def withdraw(self, asker: str, numbers: Sequence[int]) -> None:
        """It does not wait for these any more."""


class SqlShared:
    """Implements SharedStore but for `beats`."""

    def __init__(self, transactions: Transactions, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        """`reading` gives transactions that only read."""
        self._transactions, self._reading = transactions, reading

    def claim(self, fleet_id: str) -> str:
        with self._transactions.begin() as connection:
            known: str | None = connection.scalar(select(fleet.c.id))
            if known is None:
                connection.execute(insert(fleet).values(id=fleet_id, presence=0))
        return known or fleet_id

    def tell(self, replica: str, claims: Mapping[str, str], updates: Mapping[str, str]) -> int:
        with self._transactions.begin() as connection:
            self._transactions.note(Topic.PRESENCE)
            following = update(fleet).values(presence=fleet.c.presence + 1).returning(fleet.c.presence)
            version: int = connection.execute(following).scalar_one()
            for standings, taking in ((claims, True), (updates, False)):
                if standings:
                    _put(connection, replica, version, standings, taking=taking)
        return version

    def presences(self, since: int, but: str) -> tuple[Presence, ...]:
        wanted = select(presence).where(presence.c.version > since, presence.c.replica != but)
        with self._reading() as connection:
            found = connection.execute(wanted.order_by(presence.c.version, presence.c.host)).mappings()
            return tuple(Presence(r["host"], r["replica"], r["standing"], r["version"]) for r in found)

    def forget(self, replica: str, beats: int | None = None) -> None:
        gone = delete(replicas).where(replicas.c.id == replica)
        if beats is not None:
            gone = gone.where(replicas.c.beats == beats)
        still = select(func.count()).where(replicas.c.id == replica)
        with self._transactions.begin() as connection:
            connection.execute(gone)
            if not connection.scalar(still):
                connection.execute(delete(presence).where(presence.c.replica == replica))
                between = or_(questions.c.asker == replica, questions.c.target == replica)
                connection.execute(delete(questions).where(between))

    def keep_trial(self, trial: TrialRecord) -> None:
        on_trial = select(generations.c.state == GenerationState.TRIAL.value)
        values: dict[str, Any] = {
            "replica": trial.replica,
            "phases": json.dumps({phase: list(hosts) for phase, hosts in trial.phases.items()}),
            "accept_denials": trial.accept_denials,
            "step": trial.step,
        }
        with self._transactions.begin() as connection:
            if not connection.scalar(on_trial.where(generations.c.number == trial.generation)):
                return
            kept = upsert(connection, trials).values(generation=trial.generation, ended_by="", **values)
            connection.execute(kept.on_conflict_do_update(index_elements=["generation"], set_=values))
            self._transactions.note(Topic.TRIALS)

    def pushes(self) -> Pushes:
        confirmed = select(func.max(generations.c.number)).where(generations.c.state == GenerationState.CONFIRMED.value)
        with self._reading() as connection:
            row = connection.execute(select(trials).order_by(trials.c.generation.desc()).limit(1)).mappings().first()
            newest = next(iter(store_generations.newest(connection, 1)), None)
            return Pushes(newest, connection.scalar(confirmed) or 0, _trial_of(dict(row)) if row is not None else None)

    def end_trial(self, generation: int, by: str) -> None:
        wish = update(trials).where(trials.c.generation == generation, trials.c.ended_by == "").values(ended_by=by)
        with self._transactions.begin() as connection:
            if connection.execute(wish).rowcount:
                self._transactions.note(Topic.TRIALS)

    def ask(self, asked: Sequence[QuestionRecord]) -> None:
        names = ("asker", "number", "target", "host", "kind", "body")
        with self._transactions.begin() as connection:
            connection.execute(insert(questions), [{name: getattr(one, name) for name in names} for one in asked])
            self._transactions.note(Topic.QUESTIONS)

    def questions(self, target: str, since: int) -> tuple[QuestionRecord, ...]:
        columns = questions.c
        asked = (columns.asker, columns.number, columns.target, columns.host, columns.kind, columns.body, columns.id)
        wanted = select(*asked).where(columns.target == target, columns.id > since, columns.answer.is_(None))
        with self._reading() as connection:
            return tuple(QuestionRecord(*row) for row in connection.execute(wanted.order_by(columns.id)))

    def answer(self, told: Sequence[AnswerRecord]) -> None:
        columns = questions.c
        kept = (
            update(questions).where(columns.id == bindparam("of")).values(answer=bindparam("a"), error=bindparam("e"))
        )
        with self._transactions.begin() as connection:
            connection.execute(kept, [{"of": one.id, "a": one.answer, "e": one.error} for one in told])
            self._transactions.note(Topic.QUESTIONS)

    def answers(self, asker: str) -> tuple[AnswerRecord, ...]:
        columns = questions.c
        told = delete(questions).where(columns.asker == asker, columns.answer.is_not(None))
        with self._transactions.begin() as connection:
            found = connection.execute(told.returning(columns.id, columns.number, columns.answer, columns.error))
            return tuple(AnswerRecord(*row) for row in found)

    def withdraw(self, asker: str, numbers: Sequence[int]) -> None:
        mine = (questions.c.asker == asker) & questions.c.number.in_(numbers)
        with self._transactions.begin() as connection:
            connection.execute(delete(questions).where(mine))


def _trial_of(row: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(
        row["generation"],
        row["replica"],
        json.loads(row["phases"]),
        bool(row["accept_denials"]),
        row["step"],
        row["ended_by"],
    )


def _put(connection: Connection, replica: str, version: int, standings: Mapping[str, str], *, taking: bool) -> None:
    statement = upsert(connection, presence)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["host"],
        set_={"replica": new.replica, "version": new.version, "standing": new.standing},
        where=None if taking else presence.c.replica == new.replica,
    )
    rows = [{"host": h, "replica": replica, "version": version, "standing": s} for h, s in sorted(standings.items())]
    connection.execute(statement, rows)
