"""The web's server: what every request must be and every answer carries, sign-in, and the Admin service as JSON."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from segctl.errors import StateError
from segctl.proto.v1 import admin_pb2
from segctl_controller.clock import Clock
from segctl_controller.config import load_config
from segctl_controller.limits import ADMIN, LIMITS
from segctl_controller.servercert import ServerCertificate
from segctl_controller.web import listener
from segctl_controller.web.guard import host_of
from segctl_controller.web.signin import BURST
from segctl_controller.web.tls import OfFiles, of_fleet
from segctl_controller.web.transcode import METHODS, OFFERED, WITHHELD
from starlette.responses import PlainTextResponse

from tests.controller_harness import SECONDS, eventually, init_state, running_controller
from tests.unit.segctl.cli.pki import Authority
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_reports import batch, denial, report
from tests.webvisitor import SESSION, Visitor, api_token, events, next_event, signed_in

WEB = {"web": {"port": 0}}


def test_every_method_is_offered_or_withheld() -> None:
    declared = {method.name for method in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods}
    assert declared == OFFERED | WITHHELD
    assert not OFFERED & WITHHELD
    assert set(METHODS) == OFFERED
    assert all(ADMIN + name in LIMITS for name in OFFERED)


async def test_answers_carry_what_browsers_must_know(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        for path in ("/", "/map", "/app.js", "/auth/options", "/nowhere"):
            answer = await visitor.get(path)
            policy = answer.headers["content-security-policy"]
            for words in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"):
                assert words in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "server" not in answer.headers
            # It would bind every other program on localhost.
            assert "strict-transport-security" not in answer.headers
        assert (await visitor.get("/nowhere")).status == 404
        named = await visitor.get("/", host=f"ctl.example.net:{visitor.port}")
        assert (named.status, "strict-transport-security" in named.headers) == (421, True)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost:7447", "localhost"),
        ("127.0.0.1:7447", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[FD77::1]:7447", "fd77::1"),
        *(
            (odd, "")
            for odd in (
                "",
                "evil@localhost:7447",
                "evil:x@localhost",
                "localhost/evil",
                "localhost?evil",
                "localhost#evil",
                "localhost\\evil",
                "localhost:",
                "localhost:x",
                "localhost:\u0667",
                "localhost:7447:7447",
                "localhost:123456",
                "local host",
                " localhost",
                "localhost\n",
                "[localhost]",
                "[::1]x",
                "[::1",
                "::1",
                "[::1%lo]",
                "loc\u017fl",
            )
        ),
    ],
)
def test_a_host_is_a_name_or_an_address_with_a_port_or_without(header: str, host: str) -> None:
    assert host_of(header) == host


async def test_an_odd_host_is_refused(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        for odd in ("evil@localhost", "localhost/evil", "localhost?", "localhost:", "[localhost]"):
            answer = await visitor.get("/auth/options", host=odd)
            assert answer.status == 421, odd
            posted = await visitor.post("/auth/token", {"token": "x"}, host=odd, origin=f"https://{odd}")
            assert posted.status == 421, odd
        slash = await visitor.post("/auth/token", {"token": "x"}, origin=f"{visitor.origin}/")
        assert slash.status == 403


async def test_the_bundle_is_compressed_and_asked_for_once(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        plain = await visitor.get("/app.js")
        packed = await visitor.get("/app.js", accept_encoding="gzip")
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < 150_000
        assert (await visitor.get("/app.js", if_none_match=plain.headers["etag"])).status == 304
        shell = await visitor.get("/flows")
        assert shell.body == (await visitor.get("/")).body
        assert b"<script>" not in shell.body
        assert b" style=" not in shell.body


async def test_only_our_own_page_may_ask(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        good = await visitor.call("WhoAmI")
        assert (good.status, good.json["name"], good.json["role"]) == (200, "token/web-viewer", "viewer")
        assert good.headers["cache-control"] == "no-store"
        for headers in (
            {"origin": None},
            {"origin": "null"},
            {"origin": "https://evil.example"},
            {"origin": f"http://localhost:{visitor.port}"},
            {"origin": f"https://localhost:{visitor.port + 1}"},
            {"origin": f"https://127.0.0.1:{visitor.port}"},
            {"x_segctl": None},
            {"sec_fetch_site": "cross-site"},
        ):
            answer = await visitor.post("/api/v1/WhoAmI", {}, **headers)  # type: ignore[arg-type]
            assert answer.status == 403, headers
        text = await visitor.post("/api/v1/WhoAmI", {}, content_type="text/plain")
        assert (text.status, "application/json" in text.json["message"]) == (400, True)
        rebound = await visitor.post(
            "/api/v1/WhoAmI", {}, host=f"evil.example:{visitor.port}", origin=f"https://evil.example:{visitor.port}"
        )
        assert rebound.status == 421
        assert (await visitor.get("/api/v1/WhoAmI")).status == 405


async def test_the_same_answers_and_refusals_as_by_grpc(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        await lab.enrol("web1", {"role": "web", "env": "prod"})
        await lab.push(SHOP)
        visitor = await signed_in(lab)
        hosts = (await visitor.call("ListHosts")).json["hosts"]
        assert [(host["name"], host["tags"]) for host in hosts] == [("web1", {"role": "web", "env": "prod"})]
        policy = (await visitor.call("DescribePolicy")).json
        assert policy["generation"]["number"] == "1"
        assert [boundary["name"] for boundary in policy["boundaries"]] == ["dev-stays-out"]
        assert (await visitor.call("DescribePolicy", parts=["tags"])).json.keys() == {"generation", "tags"}
        for method, request, status, code in (
            ("ListHosts", {"name": "nobody"}, 404, "NOT_FOUND"),
            ("Flows", {"verdict": "maybe"}, 400, "INVALID_ARGUMENT"),
            ("Flows", {"verdict": 7}, 400, "INVALID_ARGUMENT"),
            ("Flows", {"bogus": 1}, 400, "INVALID_ARGUMENT"),
            ("DescribePolicy", {"generation": "7"}, 404, "NOT_FOUND"),
            ("DescribePolicy", {"generation": "1", "at_us": "5"}, 400, "INVALID_ARGUMENT"),
            ("Push", {}, 501, "UNIMPLEMENTED"),
            ("CreateApiToken", {"name": "x", "role": "admin"}, 501, "UNIMPLEMENTED"),
        ):
            answer = await visitor.call(method, **request)  # type: ignore[arg-type]
            assert (answer.status, answer.json["code"]) == (status, code), answer
        for body in (b"", b"7", b"{", b"[" * 10_000, b"\xff\xfe"):
            assert (await visitor.post("/api/v1/Flows", body)).status == 400, body[:10]
        large = await visitor.post("/api/v1/Flows", {"host": "x" * 40_000})
        assert (large.status, large.json["code"]) == (429, "RESOURCE_EXHAUSTED")
        larger = await visitor.call("Flows", process="x" * 20_000)
        assert (larger.status, "at most 16384" in larger.json["message"]) == (429, True)


async def test_a_method_has_the_rate_that_it_has_by_grpc(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        burst = LIMITS[ADMIN + "RuleUse"].burst
        answers = await asyncio.gather(*(visitor.call("RuleUse") for _ in range(burst + 15)))
        assert {answer.status for answer in answers} == {200, 429}


async def test_rights_are_read_at_each_call(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        token = (await lab.admin().ListApiTokens(admin_pb2.ListApiTokensRequest())).tokens[0]
        await lab.admin().RevokeApiToken(admin_pb2.RevokeApiTokenRequest(id=token.id))
        refused = await visitor.call("WhoAmI")
        assert (refused.status, "revoked" in refused.json["message"]) == (401, True)
        assert "you are not signed in" in (await visitor.call("WhoAmI")).json["message"]


async def test_a_restart_signs_nobody_out(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
    async with running_controller(tmp_path, **WEB) as lab:
        again = Visitor(lab, visitor.cookies)
        assert (await again.call("WhoAmI")).status == 200
        assert (await again.post("/auth/out")).status == 204
    async with running_controller(tmp_path, **WEB) as lab:
        assert (await Visitor(lab, visitor.cookies).call("WhoAmI")).status == 401


async def test_signing_in_and_out_is_in_the_audit_log(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        assert visitor.cookies.keys() == {SESSION}
        kept = dict(visitor.cookies)
        assert (await visitor.post("/auth/out")).status == 204
        assert not visitor.cookies
        visitor.cookies = kept
        assert (await visitor.call("WhoAmI")).status == 401
        assert (await visitor.sign_in("segctl_wrong")).status == 401
        entries = (await lab.admin().Audit(admin_pb2.AuditRequest())).entries
        told = [(e.action, e.actor, e.peer) for e in entries if e.action.startswith("web-")]
        assert told == [(f"web-sign-{way}", "token/web-viewer", "127.0.0.1") for way in ("out", "in")]
        assert any(e.action == "access-refused" and e.subject == "SignIn" for e in entries)


async def test_guessing_is_slow(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = Visitor(lab)
        answers = [(await visitor.sign_in("segctl_guess")).status for _ in range(BURST + 3)]
        assert answers == [401] * BURST + [429] * 3
        for body in (b"", b"{}", b'{"token": 7}', b"[]", b"\xff"):
            assert (await visitor.post("/auth/token", body)).status == 400
        assert (await visitor.post("/auth/token", {"token": "x" * 10_000})).status == 429


async def test_a_stream_brings_events_and_ends_with_the_session(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        host = await lab.enrol("db1", {})
        visitor = await signed_in(lab)
        await report(host, batch(1, denial()))
        async with events(visitor, host="db1") as answer:
            assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"

            async def event() -> tuple[str, dict[str, Any]]:
                return await asyncio.to_thread(next_event, answer)

            kind, first = await event()
            assert (kind, first["connection"]["host"]) == ("message", "db1")
            await report(host, batch(2, denial(port=23, count=4)))
            _, second = await event()
            assert second["connection"]["denial"]["service"]["low"] == 23
            assert (await visitor.post("/auth/out")).status == 204
            kind, told = await event()
            assert (kind, told["code"]) == ("refused", "UNAUTHENTICATED")
            assert await asyncio.to_thread(answer.read) == b""


async def test_a_stream_of_a_visitor_who_left_ends(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        visitor = await signed_in(lab)
        async with events(visitor):

            async def followed() -> bool:
                return lab.controller.feed.followers == 1

            await eventually(followed)

        async def left() -> bool:
            return lab.controller.feed.followers == 0

        await eventually(left)


async def test_the_certificate_is_renewed_without_a_restart(tmp_path: Path) -> None:
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, **WEB) as lab:
        visitor = Visitor(lab)

        def shown() -> bytes:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its time has not come by our clock
            plain = socket.create_connection(("127.0.0.1", visitor.port), SECONDS)
            with plain, context.wrap_socket(plain) as secured:
                assert secured.version() == "TLSv1.3"
                return secured.getpeercert(binary_form=True) or b""

        first = await asyncio.to_thread(shown)
        assert await asyncio.to_thread(shown) == first
        later[0] = 50 * 86_400 * 10**6
        assert await asyncio.to_thread(shown) != first


async def test_a_certificate_of_ones_own_is_shown_and_read_again(tmp_path: Path) -> None:
    authority = Authority()
    files = {"certificate": str(tmp_path / "web.pem"), "key": str(tmp_path / "web.key")}

    def put(*pair: bytes) -> None:
        for path, content in zip(files.values(), pair, strict=True):
            Path(path).write_bytes(content)

    put(*authority.issue("https://one"))
    async with running_controller(tmp_path, web={"port": 0, **files}) as lab:
        port = Visitor(lab).port

        def shown() -> tuple[tuple[str, str], ...]:
            context = ssl.create_default_context(cadata=authority.pem.decode())
            plain = socket.create_connection(("127.0.0.1", port), SECONDS)
            with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                found = secured.getpeercert()
                assert found is not None
                return tuple(found["subjectAltName"])  # type: ignore[arg-type]

        first = await asyncio.to_thread(shown)
        put(b"nonsense", b"nonsense")
        assert await asyncio.to_thread(shown) == first
        put(*authority.issue("https://two"))
        assert await asyncio.to_thread(shown) != first
    put(b"nonsense", b"nonsense")
    with pytest.raises(StateError, match=r"web: .*web.pem and .*web.key are no certificate and its key"):
        OfFiles(Path(files["certificate"]), Path(files["key"]))


async def test_a_taken_port_is_said_with_what_to_change(tmp_path: Path) -> None:
    async with running_controller(tmp_path, **WEB) as lab:
        app = lab.controller
        pair = of_fleet(ServerCertificate(app.trust, ("localhost",), app.clock))
        second = listener.Listener(PlainTextResponse("x"), pair)
        with pytest.raises(StateError, match=r"web: cannot listen on 127.0.0.1:\d+: .*web.port in controller.json"):
            second.start("127.0.0.1", Visitor(lab).port)
        await second.stop()


async def test_a_web_that_cannot_be_leaves_the_fleet_served(tmp_path: Path) -> None:
    web = {"port": 0, "certificate": "/nowhere/web.pem", "key": "/nowhere/web.key"}
    async with running_controller(tmp_path, web=web) as lab:
        assert (await lab.admin().WhoAmI(admin_pb2.WhoAmIRequest())).name == "root"


@pytest.mark.parametrize(
    ("web", "words"),
    [
        (7447, "web must be an object"),
        ({"listen": "127.0.0.1"}, "port"),
        ({"port": "7447"}, "port must be a port"),
        ({"port": 70000}, "port must be a port"),
        ({"port": 7447, "listen": "everywhere"}, "listen must be an address"),
        ({"port": 7447, "names": [""]}, "names must be texts"),
        ({"port": 7447, "ports": 1}, "ports"),
        ({"port": 7447, "key": "/etc/web.key"}, "belong together"),
        ({"port": 7447, "key": "web.key", "certificate": "web.pem"}, "whole names"),
    ],
)
def test_a_wrong_web_in_the_configuration_is_told(tmp_path: Path, web: object, words: str) -> None:
    state = init_state(tmp_path)
    file = state / "controller.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "web": web}))
    with pytest.raises(StateError, match=words):
        load_config(state)


async def test_a_token_outlives_its_browser_and_not_its_time(tmp_path: Path) -> None:
    later = [0]
    clock = Clock(lambda: time.time_ns() // 1000 + later[0])
    async with running_controller(tmp_path, clock, **WEB) as lab:
        visitor = Visitor(lab)
        await visitor.sign_in(await api_token(lab, valid_seconds=60))
        assert (await visitor.call("WhoAmI")).status == 200
        later[0] = 120 * 10**6
        assert (await visitor.call("WhoAmI")).status == 401
