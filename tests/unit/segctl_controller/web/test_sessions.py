"""Sessions: found by their secret alone, bounded in number, ended by time, by their owner, by too many."""

from __future__ import annotations

from segctl_controller.web.sessions import IDLE, LONGEST, MOST, MOST_OF_ONE, Session, Sessions


class Now:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def made(now: Now | None = None) -> tuple[Sessions, Now]:
    now = now or Now()
    return Sessions(now), now


def test_a_session_is_found_by_its_secret_and_ended() -> None:
    sessions, _ = made()
    one = Session("api-token a", "token/a", "segctl_a")
    secret = sessions.begin(one)
    assert len(secret) >= 43  # 256 bits
    assert sessions.find(secret) is one
    assert sessions.find("") is sessions.find(secret[:-1]) is None
    assert sessions.end(secret) is one
    assert (sessions.find(secret), one.token) == (None, "")
    assert "segctl_a" not in repr(Session("i", "n", "segctl_a"))


def test_an_idle_session_ends_and_one_in_use_ends_when_it_is_old() -> None:
    sessions, now = made()
    idle, used = sessions.begin(Session("a", "a", "t")), sessions.begin(Session("b", "b", "t"))
    begun = now.at
    while now.at - begun <= LONGEST - IDLE:
        now.at += IDLE * 0.9
        assert sessions.find(used)
    assert sessions.find(idle) is None
    now.at = begun + LONGEST + 1
    assert sessions.find(used) is None


def test_a_stream_keeps_its_session_and_learns_when_it_is_old() -> None:
    sessions, now = made()
    session = Session("a", "a", "t")
    secret = sessions.begin(session)
    for _ in range(5):
        now.at += IDLE - 1
        assert sessions.touch(session)
    assert sessions.find(secret) is session
    now.at += LONGEST
    assert not sessions.touch(session)
    assert session.token == ""


def test_the_least_used_goes_when_there_are_too_many() -> None:
    sessions, _ = made()
    own = [sessions.begin(Session("a", "a", "t")) for _ in range(MOST_OF_ONE)]
    sessions.find(own[0])
    sessions.begin(Session("a", "a", "t"))
    assert [secret for secret in own if not sessions.find(secret)] == [own[1]]
    others = [sessions.begin(Session(f"{n}", "b", "t")) for n in range(MOST)]
    assert len(sessions) == MOST
    assert sessions.find(own[0]) is None
    assert all(map(sessions.find, others[-10:]))
