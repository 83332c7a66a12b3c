"""Sessions: found by their secret alone, known to every controller, bounded in number, ended by time, by their owner,
by too many; and sealed where they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from segctl_controller.clock import Clock
from segctl_controller.errors import LimitError
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.records import Limits
from segctl_controller.store_thread import StoreThread
from segctl_controller.web import renewal
from segctl_controller.web.sealed import Seal
from segctl_controller.web.sessions import FAILURES, FRESH, IDLE, LONGEST, NOTED_US, Renewal, Session, Sessions

MOST, MOST_OF_ONE = 20, 4
PEER = "10.0.0.1"


class Lab:
    """Two controllers of one store, and the time."""

    def __init__(self) -> None:
        self.at = 1_000_000.0
        self.store = MemoryStore(Limits(web_sessions=MOST, web_sessions_of_one=MOST_OF_ONE))
        self.db = StoreThread(self.store)
        self.clock = Clock(lambda: int(self.at * 1_000_000))
        self.one, self.two = (Sessions(self.db, self.clock, lambda: self.at) for _ in range(2))

    async def begin(self, identity: str = "a") -> str:
        self.at += 0.001
        return await self.one.begin(Session(identity, identity, "t"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.db.close()


async def test_a_session_is_found_by_its_secret_and_ended(lab: Lab) -> None:
    one = Session("api-token a", "token/a", "segctl_a")
    secret = await lab.one.begin(one)
    assert len(secret) >= 43  # 256 bits
    assert await lab.one.find(secret, PEER) is one
    assert await lab.one.find("", PEER) is None
    assert await lab.one.find(secret[:-1], PEER) is None
    ended = await lab.one.end(secret)
    assert ended is not None
    assert (ended.identity, ended.token, one.token) == ("api-token a", "segctl_a", "")
    assert await lab.one.find(secret, PEER) is await lab.one.end(secret) is None
    assert "segctl_a" not in repr(Session("i", "n", "segctl_a"))


async def test_another_controller_knows_it_and_soon_that_it_ended(lab: Lab) -> None:
    secret = await lab.one.begin(Session("oidc a", "a", "t", Renewal("segctl", "https://t", "https://r", "refresh")))
    found = await lab.two.find(secret, PEER)
    assert found is not None
    assert (found.identity, found.name, found.token) == ("oidc a", "a", "t")
    assert found.renewal == Renewal("segctl", "https://t", "https://r", "refresh")
    await lab.one.end(secret)
    lab.at += FRESH
    assert not await lab.two.touch(found)
    assert (found.token, await lab.two.find(secret, PEER)) == ("", None)


async def test_use_at_another_controller_is_use(lab: Lab) -> None:
    secret = await lab.begin()
    for _ in range(3):
        lab.at += IDLE - NOTED_US / 1e6 - 1
        assert await lab.two.find(secret, PEER)
    assert await lab.one.find(secret, PEER)


async def test_the_database_is_asked_now_and_then_only(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = await lab.begin()
    asked: list[bytes] = []
    read = lab.store.web_session
    monkeypatch.setattr(lab.store, "web_session", lambda i: asked.append(i) or read(i))  # type: ignore[func-returns-value]
    for _ in range(50):
        assert await lab.one.find(secret, PEER)
    assert not asked
    lab.at += FRESH
    for _ in range(50):
        assert await lab.one.find(secret, PEER)
    assert len(asked) == 1


async def test_an_idle_session_ends_and_one_in_use_ends_when_it_is_old(lab: Lab) -> None:
    idle, used = await lab.begin("a"), await lab.begin("b")
    begun = lab.at
    while lab.at - begun <= LONGEST - IDLE:
        lab.at += IDLE * 0.9
        assert await lab.one.find(used, PEER)
    assert await lab.one.find(idle, PEER) is None
    lab.at = begun + LONGEST + 1
    assert await lab.one.find(used, PEER) is await lab.two.find(used, PEER) is None
    forgotten = await lab.one.find(await lab.begin("d"), PEER)
    assert forgotten is not None
    lab.at += LONGEST + 1
    await lab.begin("c")
    assert [s.identity for s in lab.store._web_sessions.values()] == ["c"]
    assert (forgotten.token, len(lab.one._known)) == ("", 1)  # no bearer stays in memory either


async def test_a_stream_keeps_its_session_and_learns_when_it_is_old(lab: Lab) -> None:
    session = Session("a", "a", "t")
    secret = await lab.one.begin(session)
    for _ in range(5):
        lab.at += IDLE - 1
        assert await lab.one.touch(session)
    assert await lab.one.find(secret, PEER) is session
    lab.at += LONGEST
    assert not await lab.one.touch(session)
    assert session.token == ""


async def test_the_least_used_goes_when_there_are_too_many(lab: Lab) -> None:
    own = [await lab.begin() for _ in range(MOST_OF_ONE)]
    lab.at += NOTED_US / 1e6
    await lab.one.find(own[0], PEER)
    await lab.begin()
    lab.at += FRESH
    assert [secret for secret in own if not await lab.one.find(secret, PEER)] == [own[1]]
    others = [await lab.begin(f"{n}") for n in range(MOST)]
    assert len(lab.store._web_sessions) == MOST
    lab.at += FRESH
    assert await lab.one.find(own[0], PEER) is None
    assert all([await lab.one.find(secret, PEER) for secret in others])


async def test_cookies_of_nobody_are_refused_and_keep_nobody_out_who_shares_their_address(lab: Lab) -> None:
    ours, theirs = await lab.begin("a"), await lab.begin("b")
    for number in range(FAILURES):
        assert await lab.two.find(f"guess {number}", PEER) is None
        assert await lab.two.find("", PEER) is None  # no cookie is none of nobody
        assert await lab.two.find(ours, PEER)
    with pytest.raises(LimitError, match="too many failed attempts"):
        await lab.two.find("one more", PEER)
    assert await lab.two.find(ours, PEER)
    assert await lab.two.find(theirs, PEER)  # it is not in memory there


async def test_what_is_stored_is_sealed_by_the_cookie(lab: Lab) -> None:
    held = Renewal("segctl", "https://t", "", "segctl-refresh")
    secret, other = await lab.one.begin(Session("a", "a", "segctl-token", held)), await lab.begin("b")
    row = lab.store.web_session(Seal(secret).id)
    assert row is not None
    for word in (b"segctl", b"refresh", b"https", secret.encode()):
        assert word not in row.sealed + row.id
    for seal in (Seal(other), Seal(secret + "x")):
        with pytest.raises(ValueError, match="not sealed"):
            seal.open(row.sealed)
    with pytest.raises(ValueError, match="not sealed"):
        Seal(secret).open(row.sealed[:5])
    again = await lab.two.find(secret, PEER)
    assert again is not None
    assert await lab.two.keep(again, "next", held)
    kept = lab.store.web_session(Seal(secret).id)
    assert kept is not None
    assert kept.sealed[:12] != row.sealed[:12]  # never the same nonce twice with one key


async def test_a_row_that_cannot_be_read_is_nobody(lab: Lab) -> None:
    secret = await lab.begin()
    seal, session = Seal(secret), await lab.one.find(secret, PEER)
    assert session is not None
    for number, sealed in enumerate((b"", b"x" * 40, seal.close(b"{}"), seal.close(b"no json")), 1):
        assert lab.store.keep_web_session(seal.id, number, sealed)
        assert await lab.two.find(secret, PEER) is None
    lab.at += FRESH
    assert await lab.one.find(secret, PEER) is None
    assert session.token == ""


async def test_one_controller_renews_and_the_other_takes_that_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "POLL_SECONDS", 0.01)
    secret = await lab.one.begin(Session("oidc a", "a", "old", Renewal("segctl", "https://t", "", "first")))
    ours, theirs = await lab.one.find(secret, PEER), await lab.two.find(secret, PEER)
    assert ours is not None
    assert theirs is not None
    assert await lab.one.lease(ours)
    waiting = asyncio.create_task(renewal.renew(theirs, lab.two, lab.clock))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    due = lab.clock.now_us() + 60_000_000
    assert await lab.one.keep(ours, "new", Renewal("segctl", "https://t", "", "second", due))
    await waiting
    assert (theirs.token, theirs.renewal, theirs.version) == ("new", ours.renewal, 2)
    assert not await lab.two.keep(Session("oidc a", "a", "x", seal=theirs.seal), "late", Renewal("", "", "", ""))


async def test_who_renews_when_the_controller_that_began_to_is_gone(lab: Lab) -> None:
    secret = await lab.begin()
    ours, theirs = await lab.one.find(secret, PEER), await lab.two.find(secret, PEER)
    assert ours is not None
    assert theirs is not None
    assert await lab.one.lease(ours)
    assert not await lab.two.lease(theirs)
    lab.at += 30
    assert await lab.two.lease(theirs)
    await lab.one.end(secret)
    assert not await lab.two.keep(theirs, "new", Renewal("", "", "", ""))  # it was ended meanwhile
    assert theirs.token == ""


async def test_who_renews_is_not_waited_for_for_ever(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock may be hours ahead of ours."""
    monkeypatch.setattr(renewal, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(renewal, "PATIENCE", 0.05)
    secret = await lab.one.begin(Session("oidc a", "a", "old", Renewal("segctl", "https://t", "", "first")))
    ours, theirs = await lab.one.find(secret, PEER), await lab.two.find(secret, PEER)
    assert ours is not None
    assert theirs is not None
    lab.at += 7200
    assert await lab.one.lease(ours)
    lab.at -= 7200
    await renewal.renew(theirs, lab.two, lab.clock)
    assert (theirs.token, ours.token) == ("old", "old")
    await asyncio.wait_for(renewal.renew(theirs, lab.two, lab.clock), 0.04)  # and not again at the next request
