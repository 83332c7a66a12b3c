"""What agent and controller log: text on stderr, or the journal with fields where stderr is the journal.

A call names what happened and what it is about beside the words for people:

    log.info("generation %d is in force", 7, extra=about(Event.POLICY, generation=7))

docs/observability.md lists every event and field; a test holds that list and this file together.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from segctl.journal import SOCKET, JournalHandler, stderr_is_journal

STDERR = 2
ATTRIBUTE = "segctl"
"""Of a log record: its fields, by name without SEGCTL_."""


class Event(StrEnum):
    """SEGCTL_EVENT, one of these and nothing else: it is a label of a metric too."""

    # agent and controller
    READY = "ready"
    STOPPED = "stopped"
    SESSION = "session"
    SESSION_ENDED = "session-ended"
    POLICY_REFUSED = "policy-refused"
    CONFIRMED = "confirmed"
    UNDONE = "undone"
    # agent; the last five are the kinds of event that it tells its controller
    POLICY = "policy"
    TRIAL = "trial"
    CERTIFICATE = "certificate"
    TAMPER = "tamper"
    KERNEL = "kernel"
    STATE = "state"
    FACTS = "facts"
    REPORT = "report"
    # controller
    TAKEN_BACK = "taken-back"
    PUSH = "push"
    ROLLBACK = "rollback"
    COMPILED = "compiled"
    PROVED = "proved"
    RELEASED = "released"
    ENROLLED = "enrolled"
    REQUEST_REFUSED = "request-refused"
    ADDRESS_REFUSED = "address-refused"
    IDENTITY = "identity"
    HOST_EVENT = "host-event"
    STORE = "store"


def about(
    event: Event,
    *,
    host: str | None = None,
    generation: int | None = None,
    digest: str | None = None,
    actor: str | None = None,
    kind: str | None = None,
    controller: str | None = None,
    peer: str | None = None,
    status: str | None = None,
    culprit: str | None = None,
    culprit_pid: int | None = None,
    duration_us: int | None = None,
) -> dict[str, dict[str, str]]:
    """`extra` of a call of logging. What is None is left out."""
    known = {
        "HOST": host,
        "GENERATION": generation,
        "DIGEST": digest,
        "ACTOR": actor,
        "KIND": kind,
        "CONTROLLER": controller,
        "PEER": peer,
        "STATUS": status,
        "CULPRIT": culprit,
        "CULPRIT_PID": culprit_pid,
        "DURATION_US": duration_us,
    }
    return {ATTRIBUTE: {"EVENT": event.value} | {k: printable(str(v)) for k, v in known.items() if v is not None}}


def kind_of(word: str) -> Event:
    """The event of a word that stands for one; `state` for any other."""
    try:
        return Event(word)
    except ValueError:
        return Event.STATE


def fields_of(record: logging.LogRecord) -> Mapping[str, str]:
    """What `about` gave; empty for a line that is about nothing in particular."""
    found = getattr(record, ATTRIBUTE, None)
    return found if isinstance(found, dict) else {}


def printable(text: str) -> str:
    """Whatever hosts and strangers call themselves: what does not print is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class OneLine(logging.Formatter):
    """One line an event. A traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - named by logging
        return printable(super().formatMessage(record))


class EventCounter(logging.Handler):
    """How often each event was logged, and how many lines of each level, since the process began."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.events = dict.fromkeys(Event, 0)
        self.lines = {"info": 0, "warning": 0, "error": 0}

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self.lines[level if record.levelno >= logging.WARNING else "info"] += 1
        event = fields_of(record).get("EVENT")
        if event is not None:
            self.events[Event(event)] += 1


def set_up(
    identifier: str,
    form: str,
    *,
    verbose: bool = False,
    environment: Mapping[str, str] = os.environ,
    socket: Path = SOCKET,
) -> None:
    """The root logger. `identifier` is SYSLOG_IDENTIFIER, `form` the text where stderr is no journal."""
    handler: logging.Handler | None = None
    if stderr_is_journal(environment, STDERR):
        handler = JournalHandler.open(identifier, fields_of, socket)
        form = "%(levelname)s %(message)s"  # the journal has the time
    text = logging.StreamHandler(sys.stderr)
    text.setFormatter(OneLine(form))
    if handler is not None:
        handler.setFormatter(OneLine("%(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler or text])


def always(**fields: str) -> None:
    """Fields of every line from now on, such as HOST on a host."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, JournalHandler):
            handler.constant.update({k: printable(v) for k, v in fields.items()})
