"""Enrolment.Reissue: what a stranger, a thief or a confused host may not get by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.proto.v1 import admin_pb2, agent_pb2, agent_pb2_grpc
from segctl_agent.reissue import CONTEXT as AGENTS_CONTEXT
from segctl_controller.authority import HOST_LIFE, Authority
from segctl_controller.clock import Clock
from segctl_controller.config import load_config, save_config
from segctl_controller.enrolment import FAILURES
from segctl_controller.reissue import CONTEXT, signed_bytes
from segctl_controller.renewal import MOST_RENEWALS

from tests.controller_harness import (
    ControllerLab,
    FakeAgent,
    Identity,
    eventually,
    init_state,
    key_pem,
    make_csr,
    running_controller,
)

Code = grpc.StatusCode


class Moved:
    """The controller's clock; hosts and TLS have the real one."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def clock(self) -> Clock:
        return Clock(lambda: time.time_ns() // 1000 + int(self.ahead.total_seconds() * 1e6))


@asynccontextmanager
async def ended_certificate(base: Path, **config: object) -> AsyncIterator[tuple[ControllerLab, FakeAgent, Moved]]:
    """A host whose certificate ended two days ago, for its controller and for TLS."""
    moved = Moved()
    moved.ahead = -(HOST_LIFE + timedelta(days=2))
    if config:
        state = init_state(base)
        save_config(state, replace(load_config(state), **config))  # type: ignore[arg-type]
    async with running_controller(base, moved.clock()) as lab:
        agent = await lab.enrol("web1", {})
        moved.ahead = timedelta()
        yield lab, agent, moved


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def signed(identity: Identity, nonce: bytes, csr: bytes, /, **changes: Any) -> agent_pb2.ReissueRequest:
    key = serialization.load_pem_private_key(identity.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(signed_bytes(nonce, csr), ec.ECDSA(hashes.SHA256()))
    fields = {"certificate": der(identity.certificate), "csr": csr, "signature": signature, **changes}
    return agent_pb2.ReissueRequest(**fields)


@asynccontextmanager
async def exchange(lab: ControllerLab, identity: Identity) -> AsyncIterator[tuple[Any, bytes]]:
    """The stream, and the nonce that came first."""
    async with grpc.aio.secure_channel(lab.enrol_address, grpc.ssl_channel_credentials(identity.ca)) as channel:
        stub: Any = agent_pb2_grpc.EnrolmentStub(channel)
        call = stub.Reissue()
        yield call, (await call.read()).nonce
        call.cancel()


async def reissued(agent: FakeAgent, identity: Identity | None = None, **changes: Any) -> FakeAgent:
    identity, key = identity or agent.identity, changes.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
    async with exchange(agent.lab, identity) as (call, nonce):
        await call.write(signed(identity, nonce, make_csr(key), **changes))
        reply = await call.read()
        if reply is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(
                await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
            )
    certificate = x509.load_der_x509_certificate(reply.renewed.certificate)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return FakeAgent(agent.lab, agent.name, Identity(agent.identity.ca, pem, key_pem(key)))


async def refusal(agent: FakeAgent, identity: Identity | None = None, **changes: Any) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reissued(agent, identity, **changes)
    return caught.value.code(), caught.value.details() or ""


async def is_welcome(agent: FakeAgent) -> bool:
    async with agent.session() as session:
        return bool((await session.receive()).welcome.host == agent.name)


def test_both_halves_sign_the_same() -> None:
    assert CONTEXT == AGENTS_CONTEXT


async def test_the_key_of_an_ended_certificate_gets_another_one(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path) as (lab, agent, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.renewed()
        assert caught.value.code() is Code.UNAVAILABLE  # TLS refuses it
        again = ec.generate_private_key(ec.SECP256R1())
        first, second = await reissued(agent, key=again), await reissued(agent, key=again)
        assert first.identity.certificate == second.identity.certificate  # an answer that was lost
        assert await is_welcome(first)
        reply = await lab.admin().Audit(admin_pb2.AuditRequest())
        (entry,) = [e for e in reply.entries if e.action == "renew"]
        assert "asked for from 127.0.0.1 with the key of one that ended" in entry.detail
        code, why = await refusal(agent)
        assert code is Code.UNAUTHENTICATED and "replaced by a later enrolment or renewal" in why


async def test_a_certificate_without_its_key_is_worth_nothing(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path) as (_, agent, __):
        other = ec.generate_private_key(ec.SECP256R1())
        thief = Identity(agent.identity.ca, agent.identity.certificate, key_pem(other))
        code, why = await refusal(agent, thief)
        assert (code, why) == (Code.UNAUTHENTICATED, "the request is not signed with the key of the certificate")


async def test_what_was_signed_once_is_worth_nothing_again(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path) as (lab, agent, _):
        async with exchange(lab, agent.identity) as (_, nonce):
            heard = signed(agent.identity, nonce, make_csr(ec.generate_private_key(ec.SECP256R1())))
        async with exchange(lab, agent.identity) as (call, other):
            assert other != nonce and len(other) == 32
            await call.write(heard)
            with pytest.raises(grpc.aio.AioRpcError, match="not signed with the key"):
                await call.read()
        code, _why = await refusal(agent, csr=make_csr(ec.generate_private_key(ec.SECP256R1())))  # another request
        assert code is Code.UNAUTHENTICATED


async def test_who_is_not_on_record_gets_nothing(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path) as (lab, agent, _):
        operator = Identity.read(lab.operators / "root")
        code, why = await refusal(agent, Identity(agent.identity.ca, operator.certificate, operator.key))
        assert code is Code.PERMISSION_DENIED and "for agents on hosts" in why
        foreign = Authority.create(lab.controller.config.fleet, lab.controller.clock.now())
        key = ec.generate_private_key(ec.SECP256R1())
        issued = foreign.issue_host(make_csr(key), "web1", lab.controller.clock.now()).certificate
        code, why = await refusal(
            agent, Identity(agent.identity.ca, agent.identity.certificate, key_pem(key)), certificate=issued
        )
        assert code is Code.UNAUTHENTICATED and "of a CA that was retired, or of none of this fleet" in why
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
        code, why = await refusal(agent)
        assert code is Code.UNAUTHENTICATED and "is not enrolled, or was removed" in why
        await lab.enrol("web1", {})
        code, why = await refusal(agent)
        assert code is Code.UNAUTHENTICATED and "replaced by a later enrolment" in why


async def test_the_grace_ends(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path, host_certificate_grace_days=3) as (_, agent, moved):
        moved.ahead = timedelta(days=1.1)
        code, why = await refusal(agent)
        assert code is Code.UNAUTHENTICATED and "more than 3 days ago; enrol it again with a token" in why
        moved.ahead = timedelta(days=0.9)
        assert await reissued(agent)


async def test_no_grace_at_all(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path, host_certificate_grace_days=0) as (_, agent, __):
        assert (await refusal(agent))[0] is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": b""},
        {"certificate": b"\x30" * 9000},
        {"csr": b"x" * 9000},
        {"signature": b"s" * 300},
        {"signature": b"", "csr": b""},
    ],
)
async def test_what_does_not_parse_is_refused(tmp_path: Path, changes: dict[str, bytes]) -> None:
    async with ended_certificate(tmp_path) as (_, agent, __):
        assert (await refusal(agent, **changes))[0] in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED)


async def test_an_own_key_is_needed_and_certificates_are_limited(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path) as (_, agent, __):
        old = serialization.load_pem_private_key(agent.identity.key, None)
        code, why = await refusal(agent, key=old)
        assert code is Code.INVALID_ARGUMENT and "a key of its own" in why
        for _number in range(MOST_RENEWALS):
            await reissued(agent)
        assert (await refusal(agent))[0] is Code.RESOURCE_EXHAUSTED


async def test_a_stranger_is_held_off_and_costs_no_audit_entries(tmp_path: Path) -> None:
    async with ended_certificate(tmp_path) as (lab, agent, _):
        before = len((await lab.admin().Audit(admin_pb2.AuditRequest(limit=1000))).entries)
        for _number in range(FAILURES):
            assert (await refusal(agent, signature=b"no"))[0] is Code.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reissued(agent)
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        assert len((await lab.admin().Audit(admin_pb2.AuditRequest(limit=1000))).entries) == before


async def test_who_says_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segctl_controller.reissue.SECONDS", 0.2)
    monkeypatch.setattr("segctl_controller.reissue.MOST_OF_ONE", 2)
    async with ended_certificate(tmp_path) as (lab, agent, _):
        async with exchange(lab, agent.identity) as (call, _nonce), exchange(lab, agent.identity):
            code, why = await refusal_of_stream(lab, agent)
            assert code is Code.RESOURCE_EXHAUSTED and "try again in a minute" in why
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(5):
                    await call.read()
            assert caught.value.code() is Code.DEADLINE_EXCEEDED

        async def there_is_room() -> bool:
            try:
                return bool(await reissued(agent))
            except grpc.aio.AioRpcError:
                return False

        await eventually(there_is_room)


async def refusal_of_stream(lab: ControllerLab, agent: FakeAgent) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with exchange(lab, agent.identity):
            pass
    return caught.value.code(), caught.value.details() or ""
