"""Certificates are renewed over real TLS: at no step is a host without a good one, and the controller has its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from segctl.model.policy import Tags
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl_controller.authority import BACKDATED, HOST_LIFE, SERVER_LIFE, serial_text
from segctl_controller.clock import Clock
from segctl_controller.config import load_config, save_config
from segctl_controller.renewal import MOST_RENEWALS
from segctl_controller.serials import in_use
from segctl_controller.setup import open_store
from segctl_controller.store.records import Entry, HostRecord

from tests.controller_harness import ControllerLab, FakeAgent, Identity, eventually, init_state, running_controller

Code = grpc.StatusCode


async def is_welcome(agent: FakeAgent) -> bool:
    async with agent.session() as session:
        return bool((await session.receive()).welcome.host == agent.name)


async def refusal(agent: FakeAgent) -> tuple[Code, str]:
    async with agent.session() as session:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await session.receive()
    return caught.value.code(), caught.value.details() or ""


async def audit(lab: ControllerLab, action: str) -> list[str]:
    reply = await lab.admin().Audit(admin_pb2.AuditRequest())
    return [f"{e.subject}: {e.detail}" for e in reply.entries if e.action == action]


def certificate_of(agent: FakeAgent) -> x509.Certificate:
    return x509.load_pem_x509_certificate(agent.identity.certificate)


async def test_both_certificates_are_good_until_the_new_one_is_used(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        old = await lab.enrol("web1", {"role": "web"})
        new = await old.renewed()
        assert certificate_of(new).public_key() != certificate_of(old).public_key()
        names = certificate_of(new).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
            f"spiffe://{lab.controller.config.fleet}/host/web1"
        ]
        assert await is_welcome(old)  # the answer was lost, or the agent died before it stored it
        assert await is_welcome(new)
        code, why = await refusal(old)
        assert code is Code.UNAUTHENTICATED
        assert "replaced by a later enrolment or renewal" in why
        assert dict((await lab.hosts())["web1"].tags) == {"role": "web"}
        (told,) = await audit(lab, "renew")
        assert told.startswith("host web1: certificate until ") and "127.0.0.1" in told


async def test_a_restart_forgets_neither(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        old = await lab.enrol("web1", {})
        new = await old.renewed()
    async with running_controller(tmp_path) as lab:
        old, new = (FakeAgent(lab, a.name, a.identity) for a in (old, new))
        assert await is_welcome(old)
        assert await is_welcome(new)
    async with running_controller(tmp_path) as lab:
        old, new = (FakeAgent(lab, a.name, a.identity) for a in (old, new))
        assert (await refusal(old))[0] is Code.UNAUTHENTICATED
        assert await is_welcome(new)


async def test_the_same_key_gets_the_same_certificate_again(tmp_path: Path) -> None:
    """Else a request that comes late would end what was answered and stored."""
    async with running_controller(tmp_path) as lab:
        old = await lab.enrol("web1", {})
        key = ec.generate_private_key(ec.SECP256R1())
        first, second = await asyncio.gather(old.renewed(key), old.renewed(key))
        assert first.identity.certificate == second.identity.certificate
        assert len(await audit(lab, "renew")) == 1
        other = await old.renewed()
        assert (await refusal(first))[0] is Code.UNAUTHENTICATED  # given up for the other one
        assert await is_welcome(other)


async def test_a_live_session_goes_on_until_the_new_certificate_opens_another(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        old = await lab.enrol("web1", {})
        async with old.session() as before:
            assert (await before.receive()).welcome.host == "web1"
            new = await old.renewed()
            await before.send(heartbeat=agent_pb2.Heartbeat())
            assert (await lab.hosts())["web1"].state == "in-sync"
            async with new.session() as after:
                assert (await after.receive()).welcome.host == "web1"
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await before.receive()
                assert caught.value.code() is Code.ABORTED


async def test_what_is_refused(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        key = load_pem_private_key(agent.identity.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        with pytest.raises(grpc.aio.AioRpcError, match="a key of its own"):
            await agent.renewed(key)
        with pytest.raises(grpc.aio.AioRpcError, match="for agents on hosts"):
            await FakeAgent(lab, "web1", Identity.read(lab.operators / "root")).renewed()
        for _ in range(MOST_RENEWALS):
            await agent.renewed()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.renewed()
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.renewed()
        assert caught.value.code() is Code.UNAUTHENTICATED


async def test_an_enrolment_in_between_ends_the_old_ones_renewal(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        stolen = await lab.enrol("web1", {})
        renewed = await stolen.renewed()
        right = await lab.enrol("web1", {}, host="web1", replace=True)
        for agent in (stolen, renewed):
            assert (await refusal(agent))[0] is Code.UNAUTHENTICATED
        assert await is_welcome(right)


async def test_how_long_a_certificate_holds_is_configured(tmp_path: Path) -> None:
    state = init_state(tmp_path)
    save_config(state, replace(load_config(state), port=0, enrol_port=0, host_certificate_days=1))
    async with running_controller(tmp_path) as lab:
        agent = await lab.enrol("web1", {})
        for one in (agent, await agent.renewed()):
            certificate = certificate_of(one)
            life = certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATED
            assert life == timedelta(days=1)


async def test_an_expired_certificate_is_refused_in_the_handshake(tmp_path: Path) -> None:
    """Given by a controller whose clock is behind by its whole life, all but two seconds."""
    behind = int((HOST_LIFE.total_seconds() - 2) * 1e6)
    async with running_controller(tmp_path, Clock(lambda: time.time_ns() // 1000 - behind)) as lab:
        agent = await lab.enrol("web1", {})
        assert await is_welcome(agent)
        await asyncio.sleep((certificate_of(agent).not_valid_after_utc - datetime.now(UTC)).total_seconds() + 1.1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.renewed()
        assert caught.value.code() is Code.UNAVAILABLE


def served(port: int, agent: FakeAgent, folder: Path) -> x509.Certificate:
    """What the listener shows in a handshake."""
    context = ssl.create_default_context(cadata=agent.identity.ca.decode())
    pair = folder / "pair.pem"
    pair.write_bytes(agent.identity.key + agent.identity.certificate)
    context.load_cert_chain(pair)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 5) as link,
        context.wrap_socket(link, server_hostname="127.0.0.1") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown)


async def test_the_controllers_own_certificate_is_renewed_and_no_stream_ends(tmp_path: Path) -> None:
    """Its clock is behind at first, and so its certificate past half of its life by the real one."""
    behind = int((SERVER_LIFE / 2 + timedelta(hours=1)).total_seconds() * 1e6)
    clock = Clock(lambda: time.time_ns() // 1000 - behind)
    save_config(init_state(tmp_path, clock), replace(load_config(tmp_path / "controller"), host_certificate_days=90))
    async with running_controller(tmp_path, clock) as lab:
        agent = await lab.enrol("web1", {})
        ports = (lab.controller.config.port, lab.controller.config.enrol_port)

        async def shown() -> list[str]:
            return [serial_text(await asyncio.to_thread(served, port, agent, tmp_path)) for port in ports]

        async with agent.session() as session:
            await session.receive()
            first = await shown()
            assert await shown() == first
            behind = 0
            second = await shown()
            assert len({*first, *second}) == 2 and await shown() == second
            await session.send(heartbeat=agent_pb2.Heartbeat())
            assert (await lab.hosts())["web1"].state == "in-sync"


def test_after_a_restore_only_what_was_issued_since_is_adopted() -> None:
    second = 1_000_000
    record = HostRecord("web1", Tags(), "aa", 1, restored_us=100 * second + 5)
    assert in_use(record, "bb", 99 * second) is None
    adopted = in_use(record, "bb", 100 * second)
    assert adopted is not None and (adopted.serial, adopted.restored_us) == ("bb", 0)
    assert in_use(adopted, "cc", 200 * second) is None
    settled = in_use(record, "aa", 0)
    assert settled is not None and in_use(settled, "bb", 200 * second) is None


async def test_a_restored_controller_adopts_what_a_host_uses_by_now(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        before = await lab.enrol("web1", {})
    kept = (lab.state / "controller.db").read_bytes()
    taken = time.time_ns() // 1000
    async with running_controller(tmp_path) as lab:
        after = await FakeAgent(lab, "web1", before.identity).renewed()
        assert await is_welcome(after)
    (lab.state / "controller.db").write_bytes(kept)
    store = open_store(lab.state)
    store.mark_restored(taken, Entry(taken, "test", "restore", "backup"))
    store.close()
    async with running_controller(tmp_path) as lab:
        assert await is_welcome(FakeAgent(lab, "web1", after.identity))
        assert (await refusal(FakeAgent(lab, "web1", before.identity)))[0] is Code.UNAUTHENTICATED
        assert len(await eventually(lambda: audit(lab, "certificate-adopted"))) == 1
