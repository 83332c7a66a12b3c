"""Run by test_certificates.py, in a process whose clock moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from segctl.errors import EnrolmentError
from segctl.proto.v1 import admin_pb2
from segctl_agent.agent import Agent
from segctl_agent.channel import Backoff
from segctl_agent.credentials import Identity, load_identity, save_identity
from segctl_agent.enforcer import Enforcer
from segctl_agent.enrol import enrol
from segctl_agent.jointoken import parse_join_token
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.renew import renew
from segctl_agent.renewal import Renewal
from segctl_agent.reports import ReportQueue
from segctl_agent.session import Session
from segctl_agent.state import StateFolder
from segctl_controller.main import main

from tests.clock import Clockwork
from tests.controller_harness import ControllerLab, eventually, init_state, running_controller
from tests.controller_harness import Identity as Pair


@dataclass
class Host:
    """An agent's session and renewals, without the rest. Each of its looks is the test's."""

    session: Session
    renewal: Renewal
    told: list[str]

    async def connected(self) -> None:
        async def is_so() -> bool:
            return bool(self.session.connected_to)

        await eventually(is_so)

    async def renewed(self) -> None:
        """Takes a look, at which the certificate is renewed, and a session with the new one."""
        before = self.renewal.identity
        await self.renewal.look()
        assert self.renewal.identity != before, (self.told, self.session.problem)
        await self.session_of(self.renewal.identity)

    async def session_of(self, identity: Identity) -> None:
        async def is_so() -> bool:
            return bool(self.session.connected_to) and not self.session._renewed.is_set()

        assert self.session.identity == identity
        await eventually(is_so)


def now() -> datetime:
    return datetime.now(UTC)


async def joined(lab: ControllerLab, state: Path, name: str, **token: object) -> Identity:
    reply = await lab.token({"role": "db"}, host=name, **token)
    join = parse_join_token(reply.join)
    return await asyncio.to_thread(enrol, state, join, name, bool(token.get("replace")), now())


def run_renewal(state: Path) -> str:
    """`segctl-agent renew` in this process."""
    try:
        renew(state, now())
    except Exception as error:  # noqa: BLE001 - the command prints it, whatever it is
        return str(error)
    return ""


@asynccontextmanager
async def running(state: Path) -> AsyncIterator[Host]:
    identity = load_identity(state)
    assert identity is not None
    reports = ReportQueue()
    agent = Agent(StateFolder(state), identity.host, Enforcer(FakeKernel(), lambda _: {}, 0), reports)
    agent.start()
    session = Session(identity, agent, reports, "boot-1", backoff=Backoff(0.02, 0.1))
    told: list[str] = []
    renewal = Renewal(state, identity, session.use, told.append, run=run_renewal, chance=lambda: 0.0)
    session.renewal_wanted = renewal.hasten
    task = asyncio.create_task(session.run())
    try:
        yield Host(session, renewal, told)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def command(lab: ControllerLab, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*arguments, "--state", str(lab.state)])
    return done.exit_code, done.output


async def audit(lab: ControllerLab, action: str) -> list[str]:
    reply = await lab.admin().Audit(admin_pb2.AuditRequest(limit=1000))
    return [f"{e.subject}: {e.detail}" for e in reply.entries if e.action == action]


def cas_of(identity: Identity) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(identity.ca)


def certificate_of(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate)


async def test_a_month_of_renewals_at_half_life(tmp_path: Path) -> None:
    clock = Clockwork()
    async with running_controller(tmp_path / "c") as lab:
        first = await joined(lab, tmp_path / "a", "db-1")
        assert first.valid_until - now() <= timedelta(days=1)
        used, told = [first], list[str]()
        renewal = Renewal(tmp_path / "a", first, used.append, told.append, run=run_renewal, chance=lambda: 0.0)
        for hour in range(0, 30 * 24, 2):
            clock.forward(hours=2)
            before = renewal.identity
            await renewal.look()
            if renewal.identity != before:
                assert timedelta(hours=12) <= now() - before.valid_from < timedelta(hours=15)
                lab.controller.renewal._quotas.clear()  # of an hour by the monotonic clock, which stands still
            if hour % 168 == 0:
                async with running(tmp_path / "a") as host:
                    await host.connected()
        renewals = len(used) - 1
        assert 50 <= renewals <= 60
        assert not told
        assert renewal.identity.enrolment_id == first.enrolment_id
        assert len(await audit(lab, "renew")) == renewals


async def test_a_controller_that_was_down_over_the_weekend(tmp_path: Path) -> None:
    """The certificates of hosts end meanwhile. Nobody has to enrol them again."""
    clock = Clockwork()
    async with running_controller(tmp_path / "c") as lab:
        before = await joined(lab, tmp_path / "a", "db-1")
        ports = lab.controller.config.port, lab.controller.config.enrol_port
    async with running(tmp_path / "a") as host:
        clock.forward(days=3)
        await host.renewal.look()
        assert host.renewal.identity == before
        assert "cannot be renewed" in host.told[0]
        async with running_controller(tmp_path / "c", ports=ports) as lab:

            async def refused() -> bool:
                return "expired at" in host.session.problem

            await eventually(refused)
            assert "renewed with its old key" in host.session.problem
            clock.forward(minutes=6)
            await host.renewed()
            (told,) = await audit(lab, "renew")
            assert "with the key of one that ended" in told
            assert (await lab.hosts())["db-1"].connected
            assert host.renewal.identity.enrolment_id == before.enrolment_id
            with pytest.raises(EnrolmentError, match="replaced by a later enrolment or renewal"):
                await asyncio.to_thread(renew_again, tmp_path / "b", before)


def renew_again(state: Path, stolen: Identity) -> None:
    """With a copy of an identity."""
    state.mkdir()
    save_identity(state, stolen)
    renew(state, now())


async def test_a_host_that_was_away_for_longer_than_the_grace(tmp_path: Path) -> None:
    clock = Clockwork()
    async with running_controller(tmp_path / "c") as lab:
        await joined(lab, tmp_path / "a", "db-1")
        clock.forward(days=30.9)
        assert await asyncio.to_thread(run_renewal, tmp_path / "a") == ""
        clock.forward(days=31.1)
        problem = await asyncio.to_thread(run_renewal, tmp_path / "a")
        assert "more than 30 days ago; enrol it again with a token" in problem
        await joined(lab, tmp_path / "a", "db-1", replace=True)
        async with running(tmp_path / "a") as host:
            await host.connected()


async def test_a_hosts_clock_that_is_wrong(tmp_path: Path) -> None:
    async with running_controller(tmp_path / "c") as lab:
        before = await joined(lab, tmp_path / "a", "db-1")
        with pytest.raises(EnrolmentError, match=r"of the new certificate: .* expired .* the local clock says"):
            await asyncio.to_thread(renew, tmp_path / "a", now() + timedelta(days=2))
        with pytest.raises(EnrolmentError, match="set the clock"):
            await asyncio.to_thread(renew, tmp_path / "a", now() - timedelta(days=2))
        assert load_identity(tmp_path / "a") == before
        renewed = await asyncio.to_thread(renew, tmp_path / "a", now() - timedelta(minutes=4))
        assert renewed.valid_from <= now() - timedelta(minutes=4)
        assert lab.controller.fleet.hosts["db-1"].renewal


async def test_a_controllers_clock_that_jumps_back(tmp_path: Path) -> None:
    """Certificates of its own that do not hold yet are made anew; hosts, whose clocks are right, go on."""
    clock = Clockwork()
    init_state(tmp_path / "c")
    clock.forward(hours=6)
    async with running_controller(tmp_path / "c") as lab:
        clock.forward(hours=-6)
        agent = await lab.enrol("web1", {})
        async with agent.session() as session:
            assert (await session.receive()).welcome.host == "web1"


async def test_the_ca_is_rotated_while_hosts_are_away(tmp_path: Path) -> None:
    clock = Clockwork()
    async with running_controller(tmp_path / "c") as lab:
        for name in ("steady", "back", "gone"):
            await joined(lab, tmp_path / name, name)
        old_agent = await lab.enrol("old", {})
        async with running(tmp_path / "steady") as steady:
            await steady.connected()

            code, text = command(lab, "ca", "rotate")
            assert code == 0, text
            assert command(lab, "ca", "retire")[0] == 1  # nothing is skipped
            clock.forward(hours=13)
            await steady.renewed()
            old_ca, new_ca = cas_of(steady.renewal.identity)
            certificate_of(steady.renewal.identity).verify_directly_issued_by(old_ca)

            before = steady.renewal.due
            assert command(lab, "ca", "activate")[0] == 0
            assert command(lab, "ca", "cancel")[0] == 1
            old_agent = await old_agent.renewed()  # of a version that knows one CA
            x509.load_pem_x509_certificate(old_agent.identity.certificate).verify_directly_issued_by(old_ca)
            async with old_agent.session() as session:
                await session.receive()
            fresh = await joined(lab, tmp_path / "fresh", "fresh")
            certificate_of(fresh).verify_directly_issued_by(new_ca)

            # Who is connected is asked to renew, long before half of its certificate's life.
            async def hastened() -> bool:
                return steady.renewal.due < before

            await eventually(hastened)
            clock.forward(minutes=2)
            await steady.renewed()
            certificate_of(steady.renewal.identity).verify_directly_issued_by(new_ca)
            # It was away, knows nothing of all this, and its certificate ended meanwhile.
            clock.forward(hours=13)
            async with running(tmp_path / "back") as back:
                await back.renewed()
                certificate_of(back.renewal.identity).verify_directly_issued_by(new_ca)

            status = await lab.admin().Status(admin_pb2.StatusRequest())
            assert (status.ca.stage, [ca.hosts for ca in status.ca.cas]) == ("active", [2, 3])
            assert list((await lab.admin().WhoAmI(admin_pb2.WhoAmIRequest())).trust) == [
                ca.public_bytes(serialization.Encoding.DER) for ca in (old_ca, new_ca)
            ]
            code, text = command(lab, "ca", "retire")
            assert code == 1
            assert "host gone, host old, operator root" in text
            assert command(lab, "admin", "renew", "root", "--out", str(tmp_path / "root"))[0] == 0
            code, text = command(lab, "ca", "status")
            assert "still of" in text and "host gone, host old" in text and "operator" not in text.split("still of")[1]
            assert command(lab, "ca", "retire", "--force")[0] == 0

            # The session that is open goes on; a new one, and a new operator's, are of the new CA alone.
            assert steady.session.connected_to
            async with running(tmp_path / "back") as back, running(tmp_path / "fresh") as of_new:
                await back.connected()
                await of_new.connected()
                lab.operators.joinpath("root").rename(tmp_path / "old-root")
                (tmp_path / "root").rename(lab.operators / "root")
                hosts = await lab.hosts()
                assert {name for name in hosts if hosts[name].connected} == {"steady", "back", "fresh"}
            clock.forward(hours=13)
            await steady.renewed()
            assert cas_of(steady.renewal.identity) == [new_ca]
            with pytest.raises(grpc.aio.AioRpcError):
                await lab.admin_as(Pair.read(tmp_path / "old-root")).WhoAmI(admin_pb2.WhoAmIRequest())

            async with running(tmp_path / "gone") as gone:

                async def says_why() -> bool:
                    return "CA was retired while this host was away" in gone.session.problem

                await eventually(says_why)
                await gone.renewal.look()
                assert "CA was retired while this host was away" in gone.told[0]
            await joined(lab, tmp_path / "gone", "gone", replace=True)
        assert [len(await audit(lab, f"ca-{step}")) for step in ("rotate", "activate", "retire")] == [1, 1, 1]
        ports = lab.controller.config.port, lab.controller.config.enrol_port
    async with running_controller(tmp_path / "c", ports=ports) as lab, running(tmp_path / "gone") as gone:
        await gone.connected()
        assert (await lab.hosts())["old"].troubles[0].text.startswith("its certificate is of a CA that was retired")
