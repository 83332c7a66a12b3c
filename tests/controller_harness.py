"""A real controller in this process, on random ports of the loopback, with real certificates; and fake agents for it.

async with running_controller(tmp_path) as lab:
    admin = lab.admin()                               # an AdminStub with the role admin
    agent = await lab.enrol("web1", {"role": "web"})  # enrolled, not connected
    async with agent.session(addresses=["10.0.0.1"]) as session:
        await session.acknowledge()                   # the next policy, proved
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.bodywire import apply_delta
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Tags
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, agent_pb2_grpc, hostpolicy_pb2
from segctl.wire import PROTOCOL_VERSION, host_policy_from_wire
from segctl_controller.clock import Clock
from segctl_controller.config import CONFIG_FILE, DATABASE_FILE, Config, load_config
from segctl_controller.server import Controller, open_controller
from segctl_controller.setup import add_operator, create_controller, open_store, write_client
from segctl_controller.store.records import Role

NAME = "127.0.0.1"
SECONDS = 10.0
"""How long anything in a test may take before it counts as broken."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate with its key, PEM."""

    ca: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def read(cls, directory: Path) -> Identity:
        return cls(*((directory / n).read_bytes() for n in ("ca.pem", "cert.pem", "key.pem")))


@dataclass(slots=True)
class ControllerLab:
    """`state` is the controller's directory, `operators` holds a credential directory for each operator."""

    controller: Controller
    state: Path
    operators: Path
    _channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{NAME}:{self.controller.config.port}"

    @property
    def enrol_address(self) -> str:
        return f"{NAME}:{self.controller.config.enrol_port}"

    @property
    def api_address(self) -> str:
        return f"{NAME}:{self.controller.config.api_port}"

    def anonymous(self, address: str) -> grpc.aio.Channel:
        """Without a client certificate."""
        ca = (self.state / "ca.pem").read_bytes()
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca))
        self._channels.append(channel)
        return channel

    def client(self) -> Path:
        """A client configuration for whoever shows a token."""
        out = self.operators.parent / "client"
        write_client(self.state, out)
        found = json.loads((out / "client.json").read_text())
        (out / "client.json").write_text(json.dumps({**found, "controller": self.address, "api": self.api_address}))
        return out

    def channel(self, identity: Identity) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
        channel = grpc.aio.secure_channel(
            self.address, credentials, options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        )
        self._channels.append(channel)
        return channel

    def operator(self, name: str, role: Role, scope: Mapping[str, str] = MappingProxyType({})) -> Path:
        """Make an operator; its credential directory is what SEGCTL_CONFIG wants."""
        out = self.operators / name
        store = open_store(self.state)
        try:
            add_operator(self.state, store, name, role, out, self.controller.clock, Tags.of(scope))
        finally:
            store.close()
        write_client_address(out, self.address)
        return out

    def admin(self, name: str = "root") -> admin_pb2_grpc.AdminAsyncStub:
        return self.admin_as(Identity.read(self.operators / name))

    def admin_as(self, identity: Identity) -> admin_pb2_grpc.AdminAsyncStub:
        return admin_pb2_grpc.AdminStub(self.channel(identity))  # type: ignore[return-value]

    async def token(self, tags: dict[str, str], **fields: Any) -> admin_pb2.CreateTokenReply:
        return await self.admin().CreateToken(admin_pb2.CreateTokenRequest(tags=tags, **fields))

    async def enrol_with(self, join: str, hostname: str, csr: bytes | None = None) -> FakeAgent:
        """Raises grpc.aio.AioRpcError when the controller refuses."""
        content = json.loads(base64.urlsafe_b64decode(join))
        ca = x509.load_der_x509_certificate(base64.b64decode(content["ca"])).public_bytes(serialization.Encoding.PEM)
        key = ec.generate_private_key(ec.SECP256R1())
        async with grpc.aio.secure_channel(content["e"][0], grpc.ssl_channel_credentials(ca)) as channel:
            stub: Any = agent_pb2_grpc.EnrolmentStub(channel)
            reply = await stub.Enrol(
                agent_pb2.EnrolRequest(
                    token=base64.b64decode(content["s"]),
                    csr=csr if csr is not None else make_csr(key),
                    hostname=hostname,
                    agent_version="fake",
                )
            )
        certificate = x509.load_der_x509_certificate(reply.certificate).public_bytes(serialization.Encoding.PEM)
        return FakeAgent(self, reply.host, Identity(ca, certificate, key_pem(key)))

    async def enrol(self, name: str, tags: dict[str, str], **fields: Any) -> FakeAgent:
        return await self.enrol_with((await self.token(tags, **fields)).join, name)

    async def push(self, policy: str, *, wait: int = 1, admin: str = "root", **fields: Any) -> list[Any]:
        """Every PushProgress of one push."""
        source = admin_pb2.PolicySource(files=[admin_pb2.SourceFile(name="policy.yaml", content=policy.encode())])
        fields.setdefault("rollout", admin_pb2.Rollout(watch_seconds=0))
        request = admin_pb2.PushRequest(source=source, wait_seconds=wait, **fields)
        return [progress async for progress in self.admin(admin).Push(request)]

    @asynccontextmanager
    async def pushing(self, policy: str, **fields: Any) -> AsyncIterator[asyncio.Task[list[Any]]]:
        """A push that goes on meanwhile, and has ended in the end."""
        fields.setdefault("wait", int(SECONDS))
        task = asyncio.create_task(self.push(policy, **fields))
        try:
            yield task
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def hosts(self) -> dict[str, admin_pb2.HostStatus]:
        reply = await self.admin().ListHosts(admin_pb2.ListHostsRequest())
        return {host.name: host for host in reply.hosts}

    async def close_channels(self) -> None:
        for channel in self._channels:
            await channel.close()
        self._channels.clear()


@dataclass(frozen=True, slots=True)
class FakeAgent:
    """An enrolled host without a kernel: says what a test wants it to say."""

    lab: ControllerLab
    name: str
    identity: Identity

    @asynccontextmanager
    async def session(
        self,
        addresses: Sequence[str] = (),
        *,
        protocol: int = PROTOCOL_VERSION,
        units: Sequence[agent_pb2.UnitFact] = (),
        listeners: Sequence[agent_pb2.Listener] = (),
        boot_id: str = "boot",
        said: Mapping[str, Any] = MappingProxyType({}),
        **facts: Any,
    ) -> AsyncIterator[FakeSession]:
        """`said`: further fields of Hello; `facts`: of Facts."""
        told = agent_pb2.Facts(
            addresses=[ip_address(a).packed for a in addresses],
            units=units,
            listeners=listeners,
            kernel="6.1.0",
            **facts,
        )
        hello = agent_pb2.Hello(agent_version="fake", protocol=protocol, boot_id=boot_id, facts=told, **said)
        session = await self._opened(hello)
        try:
            yield session
        finally:
            session.call.cancel()

    async def _opened(self, hello: agent_pb2.Hello) -> FakeSession:
        """A session whose Hello was said, or whose `receive` tells why the controller would not hear it."""
        stub: Any = agent_pb2_grpc.AgentStub(self.lab.channel(self.identity))
        for _ in range(20):
            session = FakeSession(self, stub.Session())
            try:
                await session.send(hello=hello)
            except grpc.aio.AioRpcError as error:
                # The refusal came in the middle of the write, and gRPC has put INTERNAL in its place.
                if error.code() is grpc.StatusCode.INTERNAL:
                    continue
            return session
        raise AssertionError("gRPC lost the status of 20 streams")

    async def renewed(self, key: ec.EllipticCurvePrivateKey | None = None) -> FakeAgent:
        """The same host with the certificate that it gets for a new key; the old identity stays what it was."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        stub: Any = agent_pb2_grpc.AgentStub(self.lab.channel(self.identity))
        reply = await stub.Renew(agent_pb2.RenewRequest(csr=make_csr(key)))
        certificate = x509.load_der_x509_certificate(reply.certificate).public_bytes(serialization.Encoding.PEM)
        return FakeAgent(self.lab, self.name, Identity(self.identity.ca, certificate, key_pem(key)))

    async def told(self, *entries: agent_pb2.HostEntry) -> list[str]:
        """The ids that the controller has stored in its audit log."""
        stub: Any = agent_pb2_grpc.AgentStub(self.lab.channel(self.identity))
        return list((await stub.Audit(agent_pb2.HostAuditRequest(entries=entries))).stored)

    @asynccontextmanager
    async def reports(self) -> AsyncIterator[Any]:
        """The raw Report stream: `write` ReportBatch, `read` ReportAck."""
        stub: Any = agent_pb2_grpc.AgentStub(self.lab.channel(self.identity))
        call = stub.Report()
        try:
            yield call
        finally:
            call.cancel()


@dataclass(slots=True)
class FakeSession:
    """`call` is the raw stream. Heartbeats of the controller are answered and not shown.

    It says of every policy that it could be put in force, unless `unready` is set, and sends no message of the kind
    `silent`; a policy that is tried out comes as any other does, and is stored when it is confirmed. `patience` is how
    many seconds it waits for a message.
    """

    agent: FakeAgent
    call: Any
    unready: str = ""
    silent: str = ""
    patience: float = SECONDS
    _parts: list[bytes] = field(default_factory=list)
    _staged: dict[str, HostPolicy] = field(default_factory=dict)
    _known: dict[str, HostPolicy] = field(default_factory=dict)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, **kind: Any) -> None:
        if self.silent in kind:
            return
        async with self._writing:  # a stream takes one writer, and `proving` answers meanwhile
            await self.call.write(agent_pb2.AgentMessage(**kind))

    async def receive(self) -> agent_pb2.ControllerMessage:
        """The next message that is no heartbeat; raises AioRpcError when the stream ended with an error."""
        async with asyncio.timeout(self.patience):
            while True:
                message: Any = await self.call.read()
                if message is grpc.aio.EOF:
                    # Awaiting the status turns an abort of the controller into its AioRpcError.
                    code, details = await self.call.code(), await self.call.details()
                    raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
                if message.WhichOneof("kind") != "heartbeat":
                    received: agent_pb2.ControllerMessage = message
                    return received
                await self.send(heartbeat=agent_pb2.Heartbeat())

    async def policy(self) -> HostPolicy:
        """The next host policy that is to be in force, put together from its parts and checked against its digest."""
        while True:
            policy = await self.taken(await self.receive())
            if policy is not None:
                return policy

    async def taken(self, message: agent_pb2.ControllerMessage) -> HostPolicy | None:
        """The policy that is to be in force by this message, if there is one."""
        kind = message.WhichOneof("kind")
        if kind == "delta":
            policy = apply_delta(self._known[message.delta.base], message.delta)
            self._known[message.delta.digest] = policy
            return policy
        if kind == "activate":
            return self._staged[message.activate.digest]
        if kind == "confirm":
            await self.prove(self._staged[message.confirm.digest])
        whole = None
        if kind == "policy":
            whole = message.policy
        elif kind == "chunk":
            self._parts.append(message.chunk.data)
            if not message.chunk.more:
                whole = hostpolicy_pb2.HostPolicy.FromString(b"".join(self._parts))
                self._parts.clear()
        if whole is None:
            return None
        policy = self._known[whole.digest] = host_policy_from_wire(whole)
        if not whole.stage:
            return policy
        self._staged[whole.digest] = policy
        errors = [self.unready] if self.unready else []
        await self.send(staged=agent_pb2.Staged(generation=policy.generation, digest=whole.digest, errors=errors))
        return None

    async def draft(self) -> tuple[agent_pb2.ImpactRequest, HostPolicy]:
        """The next question what a draft would cut: its last part, and the draft of all parts, checked."""
        parts = []
        while True:
            message = await self.receive()
            if message.WhichOneof("kind") != "impact":
                continue
            parts.append(message.impact.draft)
            if not message.impact.more:
                whole = hostpolicy_pb2.HostPolicy.FromString(b"".join(parts))
                return message.impact, host_policy_from_wire(whole)

    async def acknowledge(self, kernel_digest: str = "k" * 64, *, confirmed: bool = False) -> HostPolicy:
        """Take the next host policy and prove it; with `confirmed`, until it is confirmed."""
        policy = await self.policy()
        await self.prove(policy, kernel_digest)
        while confirmed:
            message = await self.receive()
            await self.taken(message)
            confirmed = message.WhichOneof("kind") != "confirm"
        return policy

    async def prove(self, policy: HostPolicy, kernel_digest: str = "k" * 64) -> None:
        ack = agent_pb2.Ack(
            generation=policy.generation,
            digest=host_policy_digest(policy),
            kernel_digest=kernel_digest,
            apply_us=100,
            stored=True,
        )
        await self.send(ack=ack)

    @asynccontextmanager
    async def proving(self, verdict: str = "allowed") -> AsyncIterator[list[HostPolicy]]:
        """Prove every policy that comes and answer every probe with `verdict`; gives the policies so far."""
        seen: list[HostPolicy] = []
        task = asyncio.create_task(self._serve(seen, verdict))
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _serve(self, seen: list[HostPolicy], verdict: str) -> None:
        while True:
            message = await self.receive()
            policy = await self.taken(message)
            if policy is not None:
                seen.append(policy)
                await self.prove(policy)
            elif message.WhichOneof("kind") == "probe":
                asked = message.probe
                detail = f"{'in' if asked.ingress else 'out'} {asked.workload} {asked.service.protocol}"
                await self.send(probe=agent_pb2.ProbeReply(id=asked.id, verdict=verdict, detail=detail))

    async def refuse(self, policy: HostPolicy, *errors: str) -> None:
        nack = agent_pb2.Nack(generation=policy.generation, digest=host_policy_digest(policy), errors=errors)
        await self.send(nack=nack)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_csr(key: ec.EllipticCurvePrivateKey, name: str = "ignored") -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def write_client_address(directory: Path, address: str) -> None:
    path = directory / "client.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "controller": address}))


async def eventually(condition: Any, seconds: float = SECONDS) -> Any:
    """Await `condition()` until it gives something true; fails after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = await condition()
        if found:
            return found
        assert loop.time() < deadline, f"not so within {seconds} s: {condition}"
        await asyncio.sleep(0.02)


def init_state(base: Path, clock: Clock | None = None, heartbeat: int = 10) -> Path:
    """A fresh controller's directory with the operator `root`; ports are chosen when it starts."""
    state = base / "controller"
    create_controller(state, NAME, (NAME,), 0, 0, clock or Clock(), heartbeat)
    store = open_store(state)
    try:
        add_operator(state, store, "root", Role.ADMIN, base / "operators" / "root", clock or Clock())
    finally:
        store.close()
    return state


@asynccontextmanager
async def running_controller(
    base: Path, clock: Clock | None = None, heartbeat: int = 10, ports: tuple[int, int] = (0, 0), **settings: Any
) -> AsyncIterator[ControllerLab]:
    """A controller with its state in `base`; a second use of the same `base` restarts it, with `ports` where it was.
    `settings`: more of its controller.json."""
    state = base / "controller"
    if not (state / DATABASE_FILE).exists():
        init_state(base, clock, heartbeat)
    if settings:
        file = state / CONFIG_FILE
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    config: Config = replace(load_config(state), port=ports[0], enrol_port=ports[1])
    controller = open_controller(state, config, open_store(state), clock)
    await controller.start()
    lab = ControllerLab(controller, state, base / "operators")
    for directory in lab.operators.iterdir():
        write_client_address(directory, lab.address)
    try:
        yield lab
    finally:
        await lab.close_channels()
        await controller.stop()
