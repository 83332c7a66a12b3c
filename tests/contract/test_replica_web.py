"""A browser whose requests reach one of two controllers, and then the other: behind a balancer that knows nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from segctl.proto.v1 import admin_pb2
from segctl_controller.clock import Clock
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.records import Role
from segctl_controller.web import transcode
from segctl_controller.web.sessions import FRESH

from tests.controller_harness import ControllerLab, eventually
from tests.oidcprovider import Provider, provider
from tests.replica_harness import replicas
from tests.unit.segctl_controller.test_oidc import give
from tests.unit.segctl_controller.web.test_web_oidc import consent, pass_time
from tests.webvisitor import SESSION, Answer, Visitor, api_token, events, next_event, signed_in

WEB = {"web": {"port": 0}}


@pytest.fixture
def idp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with provider(tmp_path) as (made, ca):
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        yield made


def beside(visitor: Visitor, lab: ControllerLab) -> Visitor:
    """The same browser, as its requests reach that controller: cookies know names, not ports."""
    return Visitor(lab, visitor.cookies)


async def status(visitor: Visitor) -> int:
    return (await visitor.call("WhoAmI")).status


async def sign_in_at_provider(begins: Visitor, ends: Visitor) -> Answer:
    away = (await begins.get("/auth/oidc")).headers["location"]
    back = (await asyncio.to_thread(consent, away)).removeprefix(begins.origin)
    host = begins.origin.removeprefix("https://")  # behind a balancer both have the same name
    return await ends.get(back, host=host)


async def out_before_long(visitor: Visitor) -> None:
    until = time.monotonic() + 2 * FRESH
    while await status(visitor) != 401:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)


async def test_a_browser_is_signed_in_at_all_controllers_and_out_of_all(tmp_path: Path, postgres: Conninfo) -> None:
    async with replicas(tmp_path, postgres, **WEB) as (one, two):
        at_one = await signed_in(one)
        at_two, cookie = beside(at_one, two), at_one.cookies[SESSION]
        for visitor in (at_two, at_one) * 3:
            assert await status(visitor) == 200
        assert (await at_two.post("/auth/out")).status == 204
        at_one.cookies[SESSION] = cookie  # whoever kept it
        assert await status(at_two) == 401
        await out_before_long(at_one)
        entries = (await one.admin().Audit(admin_pb2.AuditRequest())).entries
        assert [e.action for e in entries if e.action.startswith("web-")] == ["web-sign-out", "web-sign-in"]


async def test_a_token_that_is_revoked_at_one_ends_its_sessions_at_the_other(
    tmp_path: Path, postgres: Conninfo
) -> None:
    async with replicas(tmp_path, postgres, **WEB) as (one, two):
        visitor = Visitor(one)
        assert (await visitor.sign_in(await api_token(one))).status == 204
        assert await status(beside(visitor, two)) == 200
        token = (await one.admin().ListApiTokens(admin_pb2.ListApiTokensRequest())).tokens[0]
        await one.admin().RevokeApiToken(admin_pb2.RevokeApiTokenRequest(id=token.id))
        assert await status(beside(visitor, two)) == 401


async def test_a_sign_out_ends_a_stream_that_is_open_at_the_other(
    tmp_path: Path, postgres: Conninfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcode, "ALIVE", 60.0)
    async with replicas(tmp_path, postgres, **WEB) as (one, two):
        at_one = await signed_in(one)
        async with events(beside(at_one, two)) as answer:
            began = time.monotonic()
            assert (await at_one.post("/auth/out")).status == 204
            kind, told = await asyncio.to_thread(next_event, answer)
            assert (kind, told["code"]) == ("refused", "UNAUTHENTICATED")
            assert time.monotonic() - began < 2 * FRESH + 2


async def test_a_sign_in_that_begins_at_one_ends_at_the_other_and_its_secrets_are_nowhere(
    tmp_path: Path, postgres: Conninfo, idp: Provider
) -> None:
    idp.revokes = True
    async with replicas(tmp_path, postgres, **WEB, oidc=idp.settings()["oidc"]) as (one, two):
        give(one, "web-team", Role.VIEWER)
        at_one = Visitor(one)
        at_two = beside(at_one, two)
        assert (await sign_in_at_provider(at_one, at_two)).headers["location"] == "/"
        for visitor in (at_two, at_one):
            assert (await visitor.call("WhoAmI")).json["identity"] == "oidc alice"
        everything = await asyncio.to_thread(dumped, postgres)
        assert b"oidc alice" in everything
        cookie = at_one.cookies[SESSION].encode()
        assert cookie not in everything
        assert b"eyJ" not in everything  # how each ID token begins
        assert (await at_one.post("/auth/out")).status == 204

        async def given_back() -> bool:
            return len(idp.revoked) == 1

        await eventually(given_back)
        assert idp.revoked[0]["token"].encode() not in everything


def dumped(where: Conninfo) -> bytes:
    """Every row of every table, as text and as bytes."""
    with psycopg.connect(**where.parameters) as connection:  # type: ignore[arg-type]
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        found = [connection.execute(f"SELECT * FROM {name}".encode()).fetchall() for (name,) in names]
    parts = (value for rows in found for row in rows for value in row)
    return b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in parts)


async def test_one_controller_renews_for_both(tmp_path: Path, postgres: Conninfo, idp: Provider) -> None:
    """At many providers a refresh token is good once."""
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with replicas(tmp_path, postgres, clock=clock, **WEB, oidc=idp.settings()["oidc"]) as (one, two):
        give(one, "web-team", Role.VIEWER)
        at_one = Visitor(one)
        assert (await sign_in_at_provider(at_one, at_one)).headers["location"] == "/"
        both = (at_one, beside(at_one, two))
        until = [int((await visitor.call("WhoAmI")).json["until_us"]) for visitor in both]
        idp.lasts = 10_000
        await pass_time(at_one, later, until[0] - 90 * 10**6)
        later[0] += 60 * 10**6  # half a minute before its end
        await asyncio.gather(*(status(visitor) for visitor in both * 3))
        after = [int((await visitor.call("WhoAmI")).json["until_us"]) for visitor in both]
        assert after[0] == after[1] > until[0]
        assert idp.renewed == 1
