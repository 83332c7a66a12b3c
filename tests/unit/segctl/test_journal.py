"""Logs into the journal, over a real socket: what is documented is what is sent."""

from __future__ import annotations

import array
import logging
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from segctl import logs
from segctl.journal import JournalHandler, encode, priority, stderr_is_journal
from segctl.logs import Event, EventCounter, OneLine, about, fields_of

DOCS = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")


def decode(entry: bytes) -> dict[str, str]:
    """The native protocol, as journald reads it: fields with a length, and nothing else."""
    found: dict[str, str] = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        assert rest[8 + length : 9 + length] == b"\n"
        assert name.decode() not in found
        found[name.decode()] = rest[8 : 8 + length].decode()
        entry = rest[9 + length :]
    return found


class Journal:
    """A socket at a path, as journald has one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def next(self) -> dict[str, str]:
        data, passed, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if data:
            return decode(data)
        descriptors = array.array("i")
        descriptors.frombytes(passed[0][2])
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            return decode(file.read())

    def empty(self) -> None:
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(1 << 20)
        except BlockingIOError:
            self.socket.settimeout(5)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "socket")
    yield found
    found.socket.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    handler = JournalHandler.open("segctl-agent", fields_of, journal.path)
    assert handler is not None
    handler.setFormatter(OneLine("%(message)s"))
    logger = logging.getLogger("tests.journal")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def _documented(pattern: str) -> set[str]:
    return set(re.findall(rf"^\| `({pattern})` \|", DOCS, re.MULTILINE))


def test_what_is_sent_is_what_is_documented(journal: Journal, log: logging.Logger) -> None:
    everything = about(
        Event.TAMPER,
        host="web1",
        generation=7,
        digest="ab",
        actor="alice",
        kind="tamper",
        controller="ctl:7443",
        peer="ipv4:10.0.0.7:1",
        status="ABORTED",
        culprit="nft",
        culprit_pid=9,
        duration_us=12,
    )
    handler = log.handlers[0]
    assert isinstance(handler, JournalHandler)
    handler._lost = 3  # as after a journal that did not read
    log.warning("%s changed the rules", "nft", extra=everything)
    sent = journal.next()
    documented = _documented("[A-Z_]+")
    assert {"MESSAGE", "SEGCTL_EVENT", "SEGCTL_LINES_LOST"} <= documented
    assert set(sent) == documented
    assert sent["MESSAGE"] == "nft changed the rules"
    assert (sent["PRIORITY"], sent["SYSLOG_IDENTIFIER"]) == ("4", "segctl-agent")
    assert (sent["SEGCTL_EVENT"], sent["SEGCTL_GENERATION"], sent["SEGCTL_CULPRIT_PID"]) == ("tamper", "7", "9")
    assert (sent["CODE_FILE"], sent["CODE_FUNC"]) == (__file__, "test_what_is_sent_is_what_is_documented")
    log.info("a remark")
    assert set(journal.next()) == {n for n in documented if not n.startswith("SEGCTL_")} | {"SEGCTL_LOGGER"}


def test_every_event_is_documented() -> None:
    assert _documented("[a-z-]+") >= {e.value for e in Event}
    table = DOCS[DOCS.index("| SEGCTL_EVENT | of | meaning |") :].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == {e.value for e in Event}


def test_a_name_cannot_pose_as_a_field(journal: Journal, log: logging.Logger) -> None:
    log.error("from %s", "x\nPRIORITY=0\n", extra=about(Event.STATE, host="a\nSEGCTL_ACTOR=root"))
    sent = journal.next()
    assert sent["PRIORITY"] == "3"
    assert "SEGCTL_ACTOR" not in sent
    assert sent["MESSAGE"] == "from x\\nPRIORITY=0\\n"
    assert sent["SEGCTL_HOST"] == "a\\nSEGCTL_ACTOR=root"
    assert decode(encode([("A", "b\nC=d"), ("E", "")])) == {"A": "b\nC=d", "E": ""}


def test_a_traceback_keeps_its_lines(journal: Journal, log: logging.Logger) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    lines = journal.next()["MESSAGE"].splitlines()
    assert lines[0] == "it failed"
    assert lines[-1] == "ValueError: broken"


def test_what_is_too_long_for_a_datagram_arrives(journal: Journal, log: logging.Logger) -> None:
    log.warning("%s", "x" * (4 << 20))
    assert journal.next()["MESSAGE"] == "x" * (4 << 20)


def test_a_journal_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed(
    journal: Journal, log: logging.Logger
) -> None:
    began = time.monotonic()
    for _ in range(2000):
        log.info("flood")
    assert time.monotonic() - began < 2.0
    journal.empty()
    log.info("again")
    sent = journal.next()
    assert sent["MESSAGE"] == "again"
    assert int(sent["SEGCTL_LINES_LOST"]) > 1000
    log.info("once more")
    assert "SEGCTL_LINES_LOST" not in journal.next()


def test_a_journal_that_restarts_is_found_again(journal: Journal, log: logging.Logger) -> None:
    journal.socket.close()
    journal.path.unlink()
    log.info("into nothing")
    again = Journal(journal.path)
    log.info("back")
    assert again.next()["SEGCTL_LINES_LOST"] == "1"
    again.socket.close()


def test_only_the_stderr_that_journald_made_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as file:
        found = os.fstat(file.fileno())
        ours = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert stderr_is_journal(ours, file.fileno())
        assert not stderr_is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, file.fileno())
        assert not stderr_is_journal({"JOURNAL_STREAM": "nonsense"}, file.fileno())
        assert not stderr_is_journal({}, file.fileno())


def test_without_a_socket_there_is_no_handler(tmp_path: Path) -> None:
    assert JournalHandler.open("segctl-agent", fields_of, tmp_path / "nothing") is None


def test_priorities_are_those_of_syslog() -> None:
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    assert [priority(level) for level in levels] == [2, 3, 4, 6, 7]


def test_events_are_counted(log: logging.Logger) -> None:
    counter = EventCounter()
    log.addHandler(counter)
    try:
        log.info("one", extra=about(Event.PUSH))
        log.error("two", extra=about(Event.PUSH))
        log.warning("three")
        log.debug("four")
    finally:
        log.removeHandler(counter)
    assert counter.events[Event.PUSH] == 2
    assert sum(counter.events.values()) == 2
    assert counter.lines == {"info": 1, "warning": 1, "error": 1}
    assert logs.kind_of("tamper") is Event.TAMPER
    assert logs.kind_of("of a newer agent") is Event.STATE
