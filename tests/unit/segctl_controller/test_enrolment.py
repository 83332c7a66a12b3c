"""Enrolment and who is let in afterwards, over real TLS."""

from __future__ import annotations

import base64
import json
import time
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from segctl.proto.v1 import admin_pb2, agent_pb2, agent_pb2_grpc
from segctl.wire import PROTOCOL_VERSION
from segctl_controller.clock import Clock
from segctl_controller.enrolment import FAILURES, UNUSABLE, FailureLimit, Quota, peer_network
from segctl_controller.errors import LimitError
from segctl_controller.store.records import Role

from tests.controller_harness import ControllerLab, Identity, make_csr, running_controller

Code = grpc.StatusCode


async def refusal(awaitable: object) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.code(), caught.value.details() or ""


async def session_refusal(agent: object) -> tuple[Code, str]:
    async with agent.session() as session:  # type: ignore[attr-defined]
        return await refusal(session.receive())


async def audit(lab: ControllerLab) -> list[tuple[str, str]]:
    reply = await lab.admin().Audit(admin_pb2.AuditRequest())
    return [(e.action, e.subject) for e in reply.entries]


async def test_a_good_token_makes_a_host_with_the_tokens_tags(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("WEB1.shop", {"role": "web"})
        assert agent.name == "web1.shop"
        certificate = x509.load_pem_x509_certificate(agent.identity.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert uris == [f"spiffe://{lab.controller.config.fleet}/host/web1.shop"]
        hosts = await lab.hosts()
        assert dict(hosts["web1.shop"].tags) == {"role": "web"}
        assert hosts["web1.shop"].state == "never-connected"
        async with agent.session() as session:
            welcome = (await session.receive()).welcome
            assert (welcome.host, welcome.protocol) == ("web1.shop", PROTOCOL_VERSION)
        assert ("enrol", "host web1.shop") in await audit(lab)


async def test_a_token_that_names_its_host_decides_the_name(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("whatever", {}, host="db1")
        assert agent.name == "db1"


async def test_unusable_tokens_all_get_the_same_answer(tmp_path: Path) -> None:
    now = [time.time_ns() // 1000]
    async with running_controller(tmp_path, Clock(lambda: now[0])) as lab:
        used, revoked, expired = [await lab.token({}) for _ in range(3)]
        await lab.enrol_with(used.join, "one")
        await lab.admin().RevokeToken(admin_pb2.RevokeTokenRequest(id=revoked.id))
        unknown = json.loads(base64.urlsafe_b64decode(used.join))
        unknown["s"] = base64.b64encode(b"x" * 32).decode()
        strange = base64.urlsafe_b64encode(json.dumps(unknown).encode()).decode()
        now[0] += 3601 * 1_000_000
        answers = [
            await refusal(lab.enrol_with(join, "two")) for join in (used.join, revoked.join, expired.join, strange)
        ]
        assert set(answers) == {(Code.UNAUTHENTICATED, UNUSABLE)}
        assert sorted(await lab.hosts()) == ["one"]
        assert [action for action, _ in await audit(lab)].count("enrol-refused") == 4


async def test_a_taken_name_needs_a_token_that_says_replace(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        first = await lab.enrol("web1", {"role": "web"})
        token = await lab.token({"role": "db"})
        code, text = await refusal(lab.enrol_with(token.join, "web1"))
        assert code is Code.ALREADY_EXISTS
        assert "--replace" in text
        assert (await lab.enrol_with(token.join, "web2")).name == "web2"  # the refusal did not use the token up
        async with first.session() as session:
            await session.receive()
            second = await lab.enrol("web1", {"role": "db"}, host="web1", replace=True)
            code, text = await refusal(session.receive())
            assert code is Code.UNAUTHENTICATED
            assert "enrolled anew" in text
        code, text = await session_refusal(first)
        assert code is Code.UNAUTHENTICATED
        assert "replaced by a later enrolment" in text
        async with second.session() as session:
            assert (await session.receive()).welcome.host == "web1"


@pytest.mark.parametrize("name", ["", "-x", "a/b", "10.0.0.1", "a" * 64, "a b", "x\n"])
async def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    async with running_controller(tmp_path) as lab:
        token = await lab.token({})
        code, text = await refusal(lab.enrol_with(token.join, name))
        assert code is Code.INVALID_ARGUMENT
        assert "is not a name" in text


async def test_requests_that_are_no_requests_are_refused(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        token = await lab.token({})
        good = make_csr(ec.generate_private_key(ec.SECP256R1()))
        forged = good[:-4] + bytes(4)
        small = make_csr(ec.generate_private_key(ec.SECP192R1())) if hasattr(ec, "SECP192R1") else b""
        edwards = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        other = edwards.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(serialization.Encoding.DER)
        for csr in (b"", b"junk", forged, small, other, b"\x30" * 9000):
            code, _ = await refusal(lab.enrol_with(token.join, "web1", csr))
            assert code is Code.INVALID_ARGUMENT
        assert await lab.hosts() == {}


async def test_what_a_request_asks_for_is_ignored(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        fleet = lab.controller.config.fleet
        key = ec.generate_private_key(ec.SECP256R1())
        greedy = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
            .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{fleet}/admin/root")]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )
        agent = await lab.enrol_with((await lab.token({})).join, "web1", greedy)
        certificate = x509.load_pem_x509_certificate(agent.identity.certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{fleet}/host/web1"]


async def test_an_oversized_enrolment_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        token = await lab.token({})
        code, _ = await refusal(lab.enrol_with(token.join, "web1", b"x" * 100_000))
        assert code is Code.RESOURCE_EXHAUSTED


async def test_guessing_tokens_is_slowed_down(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        token = await lab.token({}, uses=2)
        await lab.admin().RevokeToken(admin_pb2.RevokeTokenRequest(id=token.id))
        codes = [(await refusal(lab.enrol_with(token.join, "x")))[0] for _ in range(FAILURES + 1)]
        assert codes == [Code.UNAUTHENTICATED] * FAILURES + [Code.RESOURCE_EXHAUSTED]


def test_the_failure_limit_forgets_with_time_and_keeps_peers_apart() -> None:
    now = [0.0]
    limit = FailureLimit(lambda: now[0])
    for _ in range(FAILURES):
        limit.admit("a")
        limit.failed("a")
    limit.admit("b")
    with pytest.raises(LimitError, match="too many failed attempts from a"):
        limit.admit("a")
    now[0] = 61.0
    limit.admit("a")


async def test_a_certificate_of_another_fleet_gets_no_connection(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "one") as ours, running_controller(tmp_path / "two") as theirs:
        agent = await theirs.enrol("web1", {})
        stolen = Identity(
            ca=Identity.read(ours.operators / "root").ca,
            certificate=agent.identity.certificate,
            key=agent.identity.key,
        )
        call = agent_pb2_grpc.AgentStub(ours.channel(stolen)).Session()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(protocol=PROTOCOL_VERSION)))
            await call.read()
        assert caught.value.code() is Code.UNAVAILABLE
        operator = Identity.read(theirs.operators / "root")
        foreign = ours.admin_as(Identity(stolen.ca, operator.certificate, operator.key))
        assert (await refusal(foreign.WhoAmI(admin_pb2.WhoAmIRequest())))[0] is Code.UNAVAILABLE


async def test_each_kind_of_certificate_opens_its_own_service_only(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        code, text = await refusal(lab.admin_as(agent.identity).WhoAmI(admin_pb2.WhoAmIRequest()))
        assert code is Code.PERMISSION_DENIED
        assert "for operators" in text
        stub = agent_pb2_grpc.AgentStub(lab.channel(Identity.read(lab.operators / "root")))
        for call in (stub.Session(), stub.Report()):
            code, text = await refusal(_status(call))
            assert code is Code.PERMISSION_DENIED
            assert "for agents on hosts" in text


async def _status(call: object) -> None:
    await call.read()  # type: ignore[attr-defined]
    code, details = await call.code(), await call.details()  # type: ignore[attr-defined]
    raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


async def test_a_removed_host_is_cut_off_at_once_and_stays_out(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        async with agent.session() as session:
            await session.receive()
            await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
            code, text = await refusal(session.receive())
            assert code is Code.UNAUTHENTICATED
            assert "removed from the fleet" in text
        code, text = await session_refusal(agent)
        assert code is Code.UNAUTHENTICATED
        assert "enrol it with a new token" in text
        assert await lab.hosts() == {}


async def test_an_operator_removed_from_the_shell_is_out_at_once(tmp_path: Path) -> None:
    from segctl_controller.setup import open_store, remove_operator

    async with running_controller(tmp_path) as lab:
        lab.operator("ann", Role.VIEWER)
        ann = lab.admin("ann")
        assert (await ann.WhoAmI(admin_pb2.WhoAmIRequest())).role == "viewer"
        store = open_store(lab.state)
        remove_operator(store, "ann", lab.controller.clock)
        store.close()
        code, text = await refusal(ann.WhoAmI(admin_pb2.WhoAmIRequest()))
        assert code is Code.UNAUTHENTICATED
        assert "segctl-controller admin add ann" in text


async def test_a_token_that_replaces_names_its_host(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        code, text = await refusal(lab.token({}, replace=True))
        assert (code, "--host NAME" in text) == (Code.INVALID_ARGUMENT, True)


def test_the_audit_log_takes_a_bounded_number_of_refusals() -> None:
    now = [0.0]
    quota = Quota(3, 60.0, lambda: now[0])
    assert [quota.take() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 60.0
    assert quota.take()


def test_one_ipv6_network_is_one_peer() -> None:
    assert peer_network(ip_address("2001:db8::1")) == peer_network(ip_address("2001:db8::ffff:1"))
    assert peer_network(ip_address("2001:db8::1")) != peer_network(ip_address("2001:db8:0:1::1"))
    assert peer_network(ip_address("192.0.2.1")) == "192.0.2.1"
