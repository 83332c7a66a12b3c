"""A fleet for the web's tests: a real controller on a thread of its own, and agents that tell it of a shop, its billing
and their monitoring by the real protocol."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import grpc
from segctl.proto.v1 import admin_pb2, agent_pb2, hostpolicy_pb2

from tests.controller_harness import ControllerLab, FakeAgent, FakeSession, eventually, running_controller

T = TypeVar("T")
SECOND = 1_000_000
HOUR = 3600 * SECOND
SECONDS = 30.0

POLICY = """
version: 1
tags:
  app: [shop, billing, monitoring]
  role: [web, api, db]
  env: [prod, dev]
services:
  https: [tcp/443]
  api: [tcp/8080]
  postgres: [tcp/5432]
  metrics: [tcp/9100]
peers:
  office: [203.0.113.0/24]
workloads:
  shop-web: {on: {app: shop, role: web}, process: {unit: nginx.service}}
  shop-db: {on: {app: shop, role: db}, process: {unit: "postgresql@*.service"}}
modes:
  - {select: {app: shop, env: prod}, mode: enforce}
  - {select: {app: billing}, mode: test}
boundaries:
  - {name: dev-stays-out-of-prod, from: {env: dev}, to: {env: prod}}
essentials: {rescue: {from: [203.0.113.5]}, dns: [10.0.9.1]}
rules:
  - {name: office-to-web, from: {peer: office}, to: {app: shop, role: web}, allow: [https], owner: team-shop,
     why: the shop is open to the office, review: 2027-05-01}
  - {name: web-to-api, from: {workload: shop-web}, to: {app: shop, role: api}, within: [env], allow: [api],
     owner: team-shop, why: pages need data, review: 2026-06-01}
  - {name: api-to-db, from: {app: shop, role: api}, to: {workload: shop-db}, within: [env], allow: [postgres],
     owner: team-shop, why: orders}
  - {name: scrape, from: {app: monitoring}, to: {}, allow: [metrics], owner: platform, why: metrics of every host}
tests:
  - {from: {app: shop, role: api, env: prod}, to: {workload: shop-db, env: prod}, allow: [postgres]}
"""
HOSTS: dict[str, tuple[str, dict[str, str]]] = {
    "web1": ("10.0.0.1", {"app": "shop", "role": "web", "env": "prod"}),
    "web2": ("10.0.0.2", {"app": "shop", "role": "web", "env": "prod"}),
    "api1": ("10.0.0.3", {"app": "shop", "role": "api", "env": "prod"}),
    "db1": ("10.0.0.4", {"app": "shop", "role": "db", "env": "prod"}),
    "dev1": ("10.0.1.1", {"app": "shop", "role": "web", "env": "dev"}),
    "pay1": ("10.0.2.1", {"app": "billing", "role": "api", "env": "prod"}),
    "paydb1": ("10.0.2.2", {"app": "billing", "role": "db", "env": "prod"}),
    "mon1": ("10.0.3.1", {"app": "monitoring", "role": "api", "env": "prod"}),
}
AWAY = "paydb1"
"""Enrolled, and not connected any more."""
WORKLOADS = {"web1": "shop-web", "web2": "shop-web", "dev1": "shop-web", "db1": "shop-db"}


@dataclass(frozen=True, slots=True)
class Flow:
    """Of the last minutes, or `ago` microseconds."""

    host: str
    remote: str
    port: int
    rule: str = ""
    ingress: bool = False
    flows: int = 10
    verdict: int = 0
    ago: int = 0
    protocol: int = 6


ALLOWED, WOULD_DENY, OBSERVED = 0, 1, 2
GRE = 47
"""An IP protocol that has no ports."""
FLOWS = (
    Flow("web1", "203.0.113.7", 443, "office-to-web", ingress=True, flows=240),
    Flow("web2", "203.0.113.8", 443, "office-to-web", ingress=True, flows=90),
    Flow("web1", "10.0.0.3", 8080, "web-to-api", flows=180),
    Flow("web2", "10.0.0.3", 8080, "web-to-api", flows=70),
    Flow("api1", "10.0.0.4", 5432, "api-to-db", flows=410),
    Flow("api1", "10.0.2.1", 8443, flows=12, verdict=OBSERVED, ago=49 * HOUR),
    Flow("pay1", "10.0.2.2", 5432, flows=55, verdict=WOULD_DENY),
    Flow("pay1", "198.51.100.20", 443, flows=6, verdict=WOULD_DENY),
    Flow("mon1", "10.0.0.1", 9100, "scrape", flows=60),
    Flow("mon1", "10.0.2.1", 9100, "scrape", flows=60),
    Flow("dev1", "10.0.3.1", 3000, flows=4, verdict=OBSERVED),
    Flow("mon1", "10.0.2.1", 0, flows=3, verdict=OBSERVED, ago=10 * 24 * HOUR, protocol=GRE),
)


@dataclass(slots=True)
class WebFleet:
    """`call` runs a coroutine in the controller's loop."""

    lab: ControllerLab
    loop: asyncio.AbstractEventLoop
    agents: dict[str, FakeAgent] = field(default_factory=dict)
    _told: int = 1
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        web = self.lab.controller.config.web
        assert web is not None
        return f"https://localhost:{web.port}"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS)

    def token(self, name: str = "reader", role: str = "viewer") -> str:
        """An API token of that name, made once."""

        async def made() -> str:
            request = admin_pb2.CreateApiTokenRequest(name=name, role=role)
            return (await self.lab.admin().CreateApiToken(request)).secret

        if name not in self._tokens:
            self._tokens[name] = self.call(made())
        return self._tokens[name]

    def deny(self, host: str, *denials: agent_pb2.Denial) -> None:
        """The host tells of denied connections."""
        self._told += 1
        batch = agent_pb2.ReportBatch(epoch=f"denials {self._told}", sequence=1, denials=denials)
        self.call(_report(self.agents[host], batch))


Fill = Callable[[WebFleet, AsyncExitStack], Coroutine[Any, Any, None]]
"""What makes a fleet of somebody, and ends with the stack."""


def denial(remote: str, port: int = 5432, exe: str = "/usr/bin/curl", **fields: Any) -> agent_pb2.Denial:
    now = time.time_ns() // 1000
    values: dict[str, Any] = {
        "verdict": "denied",
        "workload": "host",
        "remote": ip_address(remote).packed,
        "service": hostpolicy_pb2.PortRange(protocol="tcp", low=port, high=port),
        "process": agent_pb2.ProcessInfo(pid=7, exe=exe, command=f"{exe} -s", user="www-data", unit="cron.service"),
        "count": 1,
        "first_seen_us": now,
        "last_seen_us": now,
    }
    return agent_pb2.Denial(**{**values, **fields})


def flow_batch(host: str, flows: list[Flow], ago: int) -> agent_pb2.FlowBatch:
    now = time.time_ns() // 1000 - ago
    rules = sorted({flow.rule for flow in flows})
    return agent_pb2.FlowBatch(
        from_us=now - 60 * SECOND,
        until_us=now,
        workloads=[WORKLOADS.get(host, "host")],
        rules=rules,
        workload=[0] * len(flows),
        rule=[rules.index(flow.rule) for flow in flows],
        direction=[int(flow.ingress) for flow in flows],
        remotes=b"".join(b"\0" * 10 + b"\xff\xff" + ip_address(flow.remote).packed for flow in flows),
        protocol=[flow.protocol for flow in flows],
        port=[flow.port for flow in flows],
        flows=[flow.flows for flow in flows],
        bytes_sent=[1500 * flow.flows for flow in flows],
        bytes_received=[9000 * flow.flows for flow in flows],
        first_ms=[1000] * len(flows),
        last_ms=[55_000] * len(flows),
        verdict=[flow.verdict for flow in flows],
    )


async def _report(agent: FakeAgent, *batches: agent_pb2.ReportBatch) -> None:
    async with agent.reports() as stream, asyncio.timeout(SECONDS):
        for batch in batches:
            await stream.write(batch)
            await stream.read()


async def live(session: FakeSession) -> None:
    """Proves what comes, and answers heartbeats for as long as it goes on."""
    while (message := await session.call.read()) is not grpc.aio.EOF:
        if message.WhichOneof("kind") == "heartbeat":
            await session.send(heartbeat=agent_pb2.Heartbeat())
        elif (policy := await session.taken(message)) is not None:
            await session.prove(policy)


async def _tell(agent: FakeAgent) -> None:
    """Flows and hits of the host, in the epochs that they were seen in."""
    own = [flow for flow in FLOWS if flow.host == agent.name]
    batches = []
    for sequence, ago in enumerate(sorted({flow.ago for flow in own}, reverse=True), start=1):
        then = [flow for flow in own if flow.ago == ago]
        hits = [
            agent_pb2.RuleHits(rule=f.rule, ingress=f.ingress, count=f.flows, last_hit_us=time.time_ns() // 1000)
            for f in then
            if f.rule
        ]
        flows = flow_batch(agent.name, then, ago)
        batches.append(agent_pb2.ReportBatch(epoch="flows", sequence=sequence, flows=flows, hits=hits))
    if batches:
        await _report(agent, *batches)


async def populate(fleet: WebFleet, living: AsyncExitStack) -> None:
    """Enrolled, connected, with a policy proven on each, and told of flows."""
    lab, gone = fleet.lab, AsyncExitStack()
    for name, (address, tags) in HOSTS.items():
        agent = fleet.agents[name] = await lab.enrol(name, tags)
        stay = gone if name == AWAY else living
        session = await stay.enter_async_context(agent.session([address]))
        proving = asyncio.create_task(live(session), name=f"agent {name}")
        stay.callback(proving.cancel)

    async def known() -> bool:
        hosts = await lab.hosts()
        return all(HOSTS[name][0] in hosts[name].addresses for name in HOSTS)

    await eventually(known)
    for message, text in (("the first policy", POLICY.replace("mode: enforce", "mode: test")), ("enforce", POLICY)):
        done = (await lab.push(text, wait=10, message=message))[-1]
        assert not done.done.undone, done
    await gone.aclose()
    for agent in fleet.agents.values():
        await _tell(agent)


@contextmanager
def web_fleet(base: Path, fill: Fill | None = None, **settings: Any) -> Iterator[WebFleet]:
    """A controller with the web UI, until the block ends; of nobody, unless `fill` says otherwise."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="controller", daemon=True)
    thread.start()

    def call(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(2 * SECONDS)

    living = AsyncExitStack()
    try:
        lab = call(living.enter_async_context(running_controller(base, web={"port": 0}, **settings)))
        fleet = WebFleet(lab, loop)
        if fill is not None:
            call(fill(fleet, living))
        yield fleet
    finally:
        call(living.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()
