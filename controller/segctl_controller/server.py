"""The controller as a whole: store, fleet, gRPC servers. Starts, serves and stops cleanly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from segctl.errors import StateError
from segctl.logs import Event, about
from segctl.policy.parse import parse_policy
from segctl.proto.v1 import admin_pb2_grpc, agent_pb2, agent_pb2_grpc
from segctl.statuspage import Where

from segctl_controller.admin import Admin
from segctl_controller.apitokens import ApiTokenAdmin
from segctl_controller.authority import certificate_end
from segctl_controller.bearers import Bearers
from segctl_controller.clock import Clock
from segctl_controller.config import DATABASE_FILE, FLOWS_FILE, Config, endpoint
from segctl_controller.enrolment import Enrolment
from segctl_controller.errors import StoppingError, UnauthenticatedError
from segctl_controller.feed import Feed
from segctl_controller.fleet import Fleet
from segctl_controller.flowends import FleetEnds
from segctl_controller.flowstore.importing import import_hours
from segctl_controller.flowstore.protocol import FlowStore
from segctl_controller.flowstore.stamping import Ends
from segctl_controller.flowstore.store import flow_store_on
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.garbage import Collector
from segctl_controller.gate import Gate
from segctl_controller.hasten import Hastening
from segctl_controller.holders import CaView
from segctl_controller.hostaudit import HostAuditService
from segctl_controller.hosts import HostAdmin
from segctl_controller.limits import Bounds
from segctl_controller.monitor import Monitor
from segctl_controller.oidc import OidcVerifier
from segctl_controller.push import Publisher
from segctl_controller.registry import Registry
from segctl_controller.reissue import ReissueService
from segctl_controller.renewal import RenewalService
from segctl_controller.replicas.peers import Peers
from segctl_controller.replicas.replica import Replica
from segctl_controller.reports import ReportService
from segctl_controller.review import LARGEST_SOURCE
from segctl_controller.rpc import Context, Refusing, caller_of, clear_frames
from segctl_controller.servercert import ServerCertificate
from segctl_controller.sessions import SessionService
from segctl_controller.signin import SignIn
from segctl_controller.store.conninfo import parse_conninfo
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import GenerationRecord, HostRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.tokens import TokenAdmin
from segctl_controller.trust import Trust
from segctl_controller.web.app import make_app
from segctl_controller.web.listener import Listener
from segctl_controller.web.tls import OfFiles, of_fleet

GRACE = 1.0
"""Seconds that calls in flight get when the controller stops."""
COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    # Without it a second controller binds the same port silently and takes half of the agents.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A frozen peer is only noticed in time with this one beside the keepalive timeout.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", 128),
    # An idle connection keeps a buffer for one TLS record, of 16 KiB else, and what channelz would tell of it.
    ("grpc.tsi.max_frame_size", 4096),
    ("grpc.enable_channelz", 0),
    # Else every message of an agent is followed by a ping that measures the way to it: a third of what it costs.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
)
MUTUAL_OPTIONS = (*COMMON_OPTIONS, ("grpc.max_receive_message_length", LARGEST_SOURCE + 1024 * 1024))
API_OPTIONS = (*MUTUAL_OPTIONS, ("grpc.max_metadata_size", 16 * 1024))
"""An ID token with many groups is longer than the 8 KiB that gRPC takes otherwise."""
ENROL_OPTIONS = (*COMMON_OPTIONS, ("grpc.max_receive_message_length", 64 * 1024))
log = logging.getLogger(__name__)


class Controller:
    """`await start()`, then serve until `await stop()`. Ports of 0 in the config are chosen at start."""

    def __init__(
        self,
        config: Config,
        trust: Trust,
        store: Store,
        open_flows: Callable[[Ends], FlowStore],
        clock: Clock | None = None,
        metrics: Where | None = None,
        database: Path | None = None,
    ) -> None:
        """Raises StateError when the flow store cannot be opened."""
        self.config = config
        self.trust = trust
        self.clock = clock or Clock()
        self.db = StoreThread(store)
        self.feed = Feed()
        self.registry = Registry(lambda offer: Fleet(self.clock, offer), self.db, self.clock)
        self.registry.controller_addresses = config.addresses
        self.fleet = self.registry.fleet
        self.flows = FlowThread(open_flows(FleetEnds(self.fleet)), self.clock)
        self.publisher = Publisher(self.registry, self.db, self.clock)
        self.replica = Replica(self.registry, self.db, self._peers(store))
        self._servers: list[grpc.aio.Server] = []
        self._compiling: asyncio.Task[None] | None = None
        self._hastening: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._metrics, self._database = metrics, database
        self._monitor: Monitor | None = None
        self._web: Listener | None = None
        self.renewal = RenewalService(self.trust, self.registry, self.db, self.clock)

    async def start(self) -> None:
        """Raises StateError when a port is taken or the active generation cannot be read."""
        await self.replica.attach(self.config.fleet)
        await self._load()
        self._compiling = asyncio.create_task(self.fleet.run(), name="compile")
        self._hastening = asyncio.create_task(Hastening(self.trust, self.registry).run(), name="hasten")
        certificate = ServerCertificate(self.trust, self.config.names, self.clock)
        enrol = self._server(ENROL_OPTIONS)
        enrol_port = self._bind(enrol, self.config.enrol_port, certificate.credentials(mutual=False))
        mutual = self._server(MUTUAL_OPTIONS)
        port = self._bind(mutual, self.config.port, certificate.credentials(mutual=True))
        self.config = replace(self.config, port=port, enrol_port=enrol_port)
        reissue = ReissueService(self.trust, self.renewal, self.clock)
        enrolment = Enrolment(self.trust, self.db, self.clock, self._enrolled, reissue.serve)
        agent_pb2_grpc.add_EnrolmentServicer_to_server(enrolment, enrol)
        self.fleet.of_retired_ca = self.trust.of_retired
        gate = self._gate()
        admin = self._admin(gate, certificate)
        admin_pb2_grpc.add_AdminServicer_to_server(admin, mutual)
        mutual.add_generic_rpc_handlers((self._agent(),))
        self._take_tokens(admin, certificate)
        self._following = asyncio.create_task(self.replica.run(), name="follow")
        for server in self._servers:
            await server.start()
        await self._serve_web(admin, gate)
        self._collecting = asyncio.create_task(Collector(self._busy).run(), name="collect")
        self._start_monitor(certificate)
        told = about(Event.READY, generation=self.fleet.active.number)
        log.info("listening mutual=%s enrol=%s", endpoint(self.config.listen, port), enrol_port, extra=told)

    async def run(self, stopped: asyncio.Event) -> None:
        """Until `stopped` is set. An unexpected end of what compiles, or follows other processes, ends the controller:
        it must not fall behind."""
        stopping = asyncio.create_task(stopped.wait(), name="stop")
        waiting: set[asyncio.Task[Any]] = {stopping, *self._tasks()}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stopping not in done:
            stopping.cancel()
            for task in done:
                task.result()

    async def stop(self) -> None:
        """Safe also after a start that failed."""
        await self.publisher.close()
        self.registry.close(StoppingError("the controller stops; connect again in a moment"))
        web = () if self._web is None else (self._web.stop(),)
        await asyncio.gather(*(server.stop(GRACE) for server in self._servers), *web)
        if self._monitor is not None:
            await self._monitor.close()
        for task in self._tasks():
            task.cancel()
        await asyncio.gather(*self._tasks(), return_exceptions=True)
        await self.replica.leave()
        await asyncio.to_thread(self.flows.close)
        await asyncio.to_thread(self.db.close)

    def _take_tokens(self, admin: Admin, certificate: ServerCertificate) -> None:
        """A listener of its own: grpc can require a client certificate or not ask for one, and agents must have one."""
        if self.config.api_port is None:
            return
        server = self._server(API_OPTIONS)
        port = self._bind(server, self.config.api_port, certificate.credentials(mutual=False))
        self.config = replace(self.config, api_port=port)
        admin_pb2_grpc.add_AdminServicer_to_server(admin, server)
        admin_pb2_grpc.add_SignInServicer_to_server(SignIn(self.config.oidc), server)
        log.info("listening tokens=%s", endpoint(self.config.listen, port))

    async def _serve_web(self, admin: Admin, gate: Gate) -> None:
        """In this loop, with the same handlers and the same gate as the listener for tokens. Where it cannot be, that
        is no reason to leave the fleet alone."""
        web, names = self.config.web, self.config.web_names
        if web is None:
            return
        app = make_app(admin, gate, self.db, self.clock, self.config.oidc, names)
        try:
            own = of_fleet(ServerCertificate(self.trust, names, self.clock))
            self._web = Listener(app, OfFiles(Path(web.certificate), Path(web.key)) if web.certificate else own)
            port = self._web.start(web.listen, web.port)
        except StateError as error:
            log.error("%s", error)
            return
        self.config = replace(self.config, web=replace(web, port=port))
        log.info("listening web=%s", endpoint(web.listen, port))

    def _tasks(self) -> list[asyncio.Task[None]]:
        tasks = (self._compiling, self._hastening, self._following, self._collecting)
        return [task for task in tasks if task is not None]

    def _busy(self) -> bool:
        rollout = self.publisher.rollout
        return rollout is not None and not rollout.over and rollout.phase.name not in ("watching", "pausing")

    def _peers(self, store: Store) -> Peers | None:
        shared = store.shared()
        if shared is None:
            return None
        # The port of 0, which only tests have, is not known yet.
        where = endpoint(self.config.names[0], self.config.port)
        return Peers(shared, self.registry, self.publisher, self.db, self.clock, self.feed, where)

    def _start_monitor(self, certificate: ServerCertificate) -> None:
        """A port that is taken is no reason to leave the fleet alone."""
        if self._metrics is None:
            return
        compiling, peers = self._compiling, self.replica.peers
        monitor = Monitor(
            self.fleet,
            self.db,
            self.flows,
            self.feed,
            lambda: (self.trust.cas.current.ends, certificate_end(certificate.current().credential.certificate)),
            lambda: compiling is not None and not compiling.done(),
            self._database,
            lambda: self.trust.cas,
            lambda: peers.serving if peers is not None else 1,
        )
        try:
            where = monitor.start(self._metrics)
        except StateError as error:
            log.error("%s", error)
            return
        self._monitor = monitor
        log.info("metrics=%s", where)

    async def _load(self) -> None:
        store = self.db.store
        hosts = await self.db.call(store.hosts)
        self.registry.load(hosts, await self.db.call(store.last_proofs))
        for gone in await self.flows.read(self.flows.store.hosts) - {host.name for host in hosts}:
            self.flows.forget(gone)  # the controller ended between the two stores
        try:
            await self.publisher.settle_leftovers()
        except StateError as error:  # a full disk; it is not active in any case, and the next push tries again
            log.error("what was on trial is undone, which could not be stored: %s", error)
        active = await self.db.call(store.generation, 0)
        if active is not None:
            self._activate(active)
        if self._database is not None:
            await self.flows.change(import_hours, self._database, self.flows.store)

    def _activate(self, active: GenerationRecord) -> None:
        parsed = parse_policy(active.files)
        if parsed.policy is None:
            raise StateError(
                f"generation {active.number} in the database is no policy for this version of segctl-controller "
                f"({parsed.findings[0]}); start the version that stored it and push a policy that both understand"
            )
        self.publisher.activate(active, parsed.policy)

    def _enrolled(self, host: HostRecord) -> None:
        # What was known of the machine that had this name says nothing about the new one, nor does its policy.
        if host.name in self.fleet.hosts:
            self.fleet.drop_host(host.name)
            self.flows.forget(host.name)
        self.fleet.put_host(host)
        replaced = UnauthenticatedError(f"host {host.name!r} was enrolled anew; this certificate was replaced")
        self.registry.expel(host.name, replaced)

    def _server(self, options: tuple[tuple[str, int], ...]) -> grpc.aio.Server:
        server = grpc.aio.server(options=options, interceptors=(Bounds(),))
        self._servers.append(server)
        return server

    def _bind(self, server: grpc.aio.Server, port: int, credentials: grpc.ServerCredentials) -> int:
        where = endpoint(self.config.listen, port)
        try:
            bound: int = server.add_secure_port(where, credentials)
        except RuntimeError as error:
            raise StateError(
                f"cannot listen on {where}: the address is in use or not of this machine; stop the other program "
                "(ss -ltnp shows it), or change listen, port or enrol_port in controller.json"
            ) from error
        return bound

    def _gate(self) -> Gate:
        oidc = self.config.oidc
        bearers = Bearers(self.db, self.clock, OidcVerifier(oidc, self.clock) if oidc is not None else None)
        return Gate(self.config.fleet, self.db, self.clock, bearers)

    def _admin(self, gate: Gate, certificate: ServerCertificate) -> Admin:
        return Admin(
            self.config.fleet,
            gate,
            self.registry,
            self.db,
            self.clock,
            self.feed,
            self.publisher,
            HostAdmin(self.registry, self.db, self.flows, self.clock),
            TokenAdmin(self.config, self.trust, self.fleet, self.db, self.clock),
            ApiTokenAdmin(gate, self.db, self.clock, taken=bool(self.config.api_port is not None or self.config.web)),
            CaView(certificate, self.fleet.hosts),
            self.flows,
        )

    def _agent(self) -> grpc.GenericRpcHandler:
        """By hand instead of the generated registration: answers leave as bytes, serialized once."""
        sessions = SessionService(self.config.fleet, self.registry, self.clock, self.config.heartbeat_seconds)
        reports = ReportService(self.config.fleet, self.registry, self.db, self.flows, self.clock, self.feed)
        audit = HostAuditService(self.config.fleet, self.registry, self.db, self.clock)

        async def report(context: Context) -> None:
            async with Refusing(context):
                host = caller_of(context, self.config.fleet, "host").name
                await self.registry.revocations.bound(host, reports.serve(context))

        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Session": _stream(sessions.serve, agent_pb2.AgentMessage.FromString),
            "Report": _stream(report, agent_pb2.ReportBatch.FromString),
            "Renew": grpc.unary_unary_rpc_method_handler(
                self.renewal.serve, agent_pb2.RenewRequest.FromString, agent_pb2.RenewReply.SerializeToString
            ),
            "Audit": grpc.unary_unary_rpc_method_handler(
                audit.serve, agent_pb2.HostAuditRequest.FromString, agent_pb2.HostAuditReply.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler("segctl.v1.Agent", handlers)


def _stream(
    serve: Callable[[Context], Awaitable[None]], parse: Callable[[bytes], object]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def handler(_requests: object, context: Context) -> None:
        try:
            await serve(context)
        except BaseException as error:
            clear_frames(error)
            raise
        finally:
            del context

    return grpc.stream_stream_rpc_method_handler(handler, request_deserializer=parse, response_serializer=None)


def open_controller(
    directory: Path, config: Config, store: Store, clock: Clock | None = None, metrics: Where | None = None
) -> Controller:
    """Raises StateError for a CA that cannot be read, or a flow store that cannot be opened."""
    trust = Trust(directory, config.fleet, config.host_life, config.host_grace)

    def open_flows(ends: Ends) -> FlowStore:
        database = config.database
        where = parse_conninfo(database, directory) if database else directory / FLOWS_FILE
        return flow_store_on(where, ends, config.flow_limits)

    file = None if config.database else directory / DATABASE_FILE
    return Controller(config, trust, store, open_flows, clock, metrics, file)
