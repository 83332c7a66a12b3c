"""ID tokens at a real controller: only those of the provider, for us, now, and with a group that has a role."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from joserfc import jwk
from segctl.errors import StateError
from segctl.model.policy import Tags
from segctl.oidcweb import WebError, checked_url, discover
from segctl.proto.v1 import admin_pb2
from segctl_controller.clock import Clock
from segctl_controller.config import load_config
from segctl_controller.errors import ForbiddenError, ProviderError
from segctl_controller.oidc import KEYS_LIVE, KEYS_REST, Claims, Keys, member_rights
from segctl_controller.setup import map_group, open_store, unmap_group
from segctl_controller.store.records import GroupRecord, Role

from tests.controller_harness import SECONDS, ControllerLab, eventually, init_state, running_controller
from tests.oidcprovider import CLIENT, Provider, provider
from tests.unit.segctl_controller.test_access import stub
from tests.unit.segctl_controller.test_admin import Code, refusal

WEB = Tags.of({"role": "web"})


@pytest.fixture
def idp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with provider(tmp_path) as (made, ca):
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        yield made


def give(lab: ControllerLab, group: str, role: Role, scope: Tags = Tags()) -> None:  # noqa: B008 - frozen
    store = open_store(lab.state)
    map_group(store, group, role, scope, Clock())
    store.close()


async def who(lab: ControllerLab, token: str) -> admin_pb2.WhoAmIReply:
    found: admin_pb2.WhoAmIReply = await stub(lab, token).WhoAmI(admin_pb2.WhoAmIRequest())
    return found


async def test_a_member_of_a_group_has_its_role_until_that_is_taken(tmp_path: Path, idp: Provider) -> None:
    async with running_controller(tmp_path, **idp.settings()) as lab:
        token = idp.token(preferred_username="alice@example.net")
        assert (await refusal(who(lab, token)))[0] is Code.PERMISSION_DENIED
        give(lab, "web-team", Role.OWNER, WEB)
        found = await who(lab, token)
        assert (found.name, found.role, found.identity) == ("oidc/alice@example.net", "owner", "oidc alice")
        assert [dict(s.tags) for s in found.scopes] == [{"role": "web"}]
        assert found.until_us == pytest.approx((time.time() + 600) * 1e6, abs=30e6)
        code, _ = await refusal(stub(lab, token).RemoveHost(admin_pb2.RemoveHostRequest(host="x")))
        assert code is Code.PERMISSION_DENIED
        store = open_store(lab.state)
        unmap_group(store, "web-team", Clock())
        store.close()
        assert (await refusal(who(lab, token)))[0] is Code.PERMISSION_DENIED
        assert idp.asked_for_keys == 1


def confused(idp: Provider) -> str:
    """Signed with the public key as if it were a shared secret (RFC 8725, 2.1)."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"made"}').rstrip(b"=")
    text = head + b"." + idp.token().split(".")[1].encode()
    shown = hmac.digest(idp.key.as_pem(private=False), text, "sha256")
    return (text + b"." + base64.urlsafe_b64encode(shown).rstrip(b"=")).decode()


async def test_only_good_tokens_are_anybody(tmp_path: Path, idp: Provider) -> None:
    now = int(time.time())
    other = jwk.RSAKey.generate_key(2048)
    elliptic = jwk.ECKey.generate_key("P-256", {"kid": "ec"})
    idp.published.append(elliptic.as_dict(private=False))
    idp.published.append({"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"})
    bad = {
        "another issuer": idp.token(iss="https://evil.example"),
        "no issuer": idp.token(iss=None),
        "another audience": idp.token(aud="grafana"),
        "no audience": idp.token(aud=None),
        "made for another, and for us too": idp.token(aud=[CLIENT, "grafana"], azp="grafana"),
        "ended": idp.token(exp=now - 60),
        "without an end": idp.token(exp=None),
        "of later": idp.token(nbf=now + 120),
        "no subject": idp.token(sub=None),
        "a subject that is no text": idp.token(sub=7),
        "a name that would forge a line": idp.token(preferred_username="root\nroot"),
        "another key under a known id": idp.token(other),
        "an unknown key": idp.token(other, {"kid": "other"}),
        "a shared secret, which is our public key": confused(idp),
        "a published shared secret": idp.token(
            jwk.OctKey.import_key("secret-secret-secret-secret-secret"), {"alg": "HS256", "kid": "shared"}
        ),
        "groups that are no list": idp.token(groups="web-team"),
        "too many groups": idp.token(groups=["g"] * 500 + ["web-team"] * 600),
        "no signature": idp.token().rpartition(".")[0] + ".",
        "none": "eyJhbGciOiJub25lIiwia2lkIjoibWFkZSJ9." + idp.token().split(".")[1] + ".",
        "five parts": "a.b.c.d.e",
        "garbage": "\u00e9".encode().hex() * 30,
    }
    async with running_controller(tmp_path, **idp.settings()) as lab:
        give(lab, "web-team", Role.VIEWER)
        assert (await who(lab, idp.token())).role == "viewer"
        assert (await who(lab, idp.token(elliptic, {"alg": "ES256", "kid": "ec"}))).role == "viewer"
        assert (await who(lab, idp.token(aud=[CLIENT, "grafana"], azp=CLIENT))).role == "viewer"
        assert (await who(lab, idp.token(exp=now - 5))).role == "viewer"  # clocks differ a little
        assert (await who(lab, idp.token(exp=10**30))).role == "viewer"
        for name, token in bad.items():
            try:
                found = await who(lab, token)
            except grpc.aio.AioRpcError as error:
                assert error.code() is Code.UNAUTHENTICATED, (name, error.details())
            else:
                raise AssertionError(f"{name}: {found}")
        assert idp.asked_for_keys <= 2, "strangers decide how often the provider is asked"


async def test_times_are_judged_by_the_controllers_clock(tmp_path: Path, idp: Provider) -> None:
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, **idp.settings()) as lab:
        give(lab, "web-team", Role.VIEWER)
        token = idp.token()
        assert (await who(lab, token)).role == "viewer"
        later[0] = 700 * 10**6
        assert (await refusal(who(lab, token)))[0] is Code.UNAUTHENTICATED


async def test_a_provider_that_is_away_lets_nobody_in_and_says_so(tmp_path: Path, idp: Provider) -> None:
    settings = idp.settings()
    settings["oidc"]["issuer"] = "https://127.0.0.1:1"
    async with running_controller(tmp_path, **settings) as lab:
        code, text = await refusal(who(lab, idp.token()))
        assert (code, "https://127.0.0.1:1 cannot be asked" in text) == (Code.UNAVAILABLE, True), text


class Asked:
    """Keys as a provider publishes them, and how often it was asked."""

    def __init__(self, *names: str) -> None:
        self.at, self.asked, self.names = 0.0, 0, list(names)
        self.public = jwk.RSAKey.generate_key(2048).as_dict(private=False)
        self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, _issuer: str) -> dict[str, Any]:
        self.asked += 1
        self.goes_on.wait(SECONDS)
        if self.fails:
            raise WebError("HTTP 500")
        return {"keys": [{**self.public, "kid": name} for name in self.names]}

    def keys(self) -> Keys:
        return Keys("https://idp", self, lambda: self.at)


async def test_keys_that_were_rotated_are_found_and_unknown_ones_do_not_flood_the_provider() -> None:
    asked = Asked("one")
    keys = asked.keys()
    assert await keys.of("one") is not None
    asked.names = ["two"]
    assert await keys.of("two") is None  # just asked
    asked.at += KEYS_REST + 1
    assert await keys.of("two") is not None
    assert await keys.of("one") is None  # and what the provider took back is gone
    for number in range(100):
        await keys.of(f"made up {number}")
    assert asked.asked == 2


async def test_known_keys_hold_while_the_provider_is_away() -> None:
    asked = Asked("one")
    keys = asked.keys()
    await keys.of("one")
    asked.fails, asked.at = True, KEYS_LIVE + 1
    assert await keys.of("one") is not None


async def test_who_shows_a_known_key_does_not_wait_for_a_provider_that_hangs() -> None:
    asked = Asked("one")
    keys = asked.keys()
    await keys.of("one")
    asked.at = KEYS_LIVE + 1
    asked.goes_on.clear()
    try:
        async with asyncio.timeout(SECONDS / 2):
            assert await keys.of("one") is not None
    finally:
        asked.goes_on.set()

    async def asked_again() -> bool:
        return asked.asked == 2

    await eventually(asked_again)


async def test_without_any_keys_no_token_is_called_bad() -> None:
    """Who was told so would end the session that the token belongs to."""
    fresh = Asked("one")
    fresh.fails = True
    keys = fresh.keys()
    for _ in range(3):
        with pytest.raises(ProviderError, match="HTTP 500"):
            await keys.of("one")
    assert fresh.asked == 1
    fresh.fails, fresh.at = False, KEYS_REST + 1
    assert await keys.of("one") is not None


def claims(*groups: str) -> Claims:
    return Claims("s", "n", frozenset(groups), 0)


def test_the_highest_role_counts_and_scopes_add_up() -> None:
    crm = Tags.of({"app": "crm"})
    mapped = [
        GroupRecord("a", Role.VIEWER),
        GroupRecord("b", Role.OWNER, WEB),
        GroupRecord("b", Role.OWNER, crm),
        GroupRecord("c", Role.EDITOR),
    ]
    assert member_rights(mapped, claims("a", "x")) == (Role.VIEWER, ())
    assert member_rights(mapped, claims("a", "b")) == (Role.OWNER, (WEB, crm))
    assert member_rights(mapped, claims("b", "c")) == (Role.EDITOR, ())
    with pytest.raises(ForbiddenError, match="map-group"):
        member_rights(mapped, claims("x"))


@pytest.mark.parametrize("url", ["http://idp", "https://", "https://user@idp", "file:///etc/passwd", "//idp", ""])
def test_nothing_but_https_is_asked(url: str) -> None:
    with pytest.raises(WebError, match="no https address"):
        checked_url(url)


def test_a_provider_is_checked_before_it_is_believed(idp: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    assert discover(idp.issuer)["jwks_uri"] == f"{idp.issuer}/jwks"
    with pytest.raises(WebError, match="calls itself"):
        discover(idp.issuer + "/")
    monkeypatch.setattr("segctl.oidcweb.LARGEST", 100)
    with pytest.raises(WebError, match="larger than 100"):
        discover(idp.issuer)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(WebError, match=r"(?i)certificate"):
        discover(idp.issuer)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"api_port": 7446, "oidc": {"issuer": "http://idp", "client_id": "x"}}, "https"),
        ({"oidc": {"issuer": "https://idp", "client_id": "x"}}, "needs an api_port"),
        ({"api_port": 7446, "oidc": {"issuer": "https://idp"}}, "client_id"),
        ({"api_port": 7446, "oidc": {"issuer": "https://idp", "client_id": "x", "secret": "y"}}, "secret"),
        ({"api_port": 7446, "oidc": []}, "object"),
        ({"api_port": "7446"}, "api_port"),
        ({"api_port": 70000}, "api_port"),
    ],
)
async def test_settings_that_cannot_be_used_say_so(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    state = init_state(tmp_path)
    file = state / "controller.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(StateError, match=words):
        load_config(state)
