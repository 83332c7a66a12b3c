"""The recorded shop (lab/recording.py) in a controller of tests/controller_harness.py: enrolled hosts tell their flows
over mTLS, as if a day had taken a day and the last one had just ended.

async with running_controller(tmp_path) as lab, shop_traffic(lab, read_recording(SHOP_TRAFFIC)) as shop:
    ...                                               # its hosts are connected, and what they told is stored
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from segctl.proto.v1 import agent_pb2
from segctl_controller.flowstore.records import DAY_US, FlowVerdict

from lab.recording import RecordedFlows, RecordedHost, Recording
from tests.controller_harness import ControllerLab, FakeAgent, FakeSession

EPOCH = "recorded"


@dataclass(frozen=True, slots=True)
class ShopTraffic:
    """`since_us` to `until_us` is the time of the recording, by the controller's clock; `sessions` by host."""

    recording: Recording
    since_us: int
    until_us: int
    sessions: dict[str, FakeSession]


@asynccontextmanager
async def shop_traffic(lab: ControllerLab, recording: Recording, until_us: int = 0) -> AsyncIterator[ShopTraffic]:
    """`until_us`: when its last day ended, by the controller's clock; 0: now."""
    until_us = until_us or lab.controller.clock.now_us()
    since_us = until_us - recording.days * DAY_US
    await lab.push(recording.policy())
    agents = {host.name: await lab.enrol(host.name, dict(host.tags)) for host in recording.managed}
    async with AsyncExitStack() as stack:
        sessions = {}
        for host in recording.managed:  # all of them before the first flow, so that both ends of it are known
            session = await stack.enter_async_context(_session(agents[host.name], host))
            await session.acknowledge()
            sessions[host.name] = session
        for name, agent in agents.items():
            await _tell(agent, batches(recording, name, since_us))
        yield ShopTraffic(recording, since_us, until_us, sessions)


@asynccontextmanager
async def _session(agent: FakeAgent, host: RecordedHost) -> AsyncIterator[FakeSession]:
    listeners = [
        agent_pb2.Listener(
            protocol=one.protocol,
            address=ip_address(one.address).packed,
            port=one.port,
            workload="host",
            cgroup=one.cgroup,
            process=one.process,
            uid=one.uid,
        )
        for one in host.listeners
    ]
    async with agent.session(addresses=host.addresses, listeners=listeners) as session:
        yield session


async def _tell(agent: FakeAgent, told: Sequence[agent_pb2.FlowBatch]) -> None:
    """Until all of it is stored."""
    async with agent.reports() as call:
        for number, batch in enumerate(told, 1):
            await call.write(agent_pb2.ReportBatch(epoch=EPOCH, sequence=number, flows=batch))
        while (await call.read()).sequence < len(told):
            pass


def batches(recording: Recording, host: str, since_us: int) -> list[agent_pb2.FlowBatch]:
    """What the host told of each day; the first begins at `since_us`."""
    own = [row for row in recording.flows if row.host == host]
    return [
        _batch([row for row in own if row.day == day], since_us + day * DAY_US, recording.day_seconds)
        for day in range(recording.days)
    ]


def _batch(rows: Sequence[RecordedFlows], began_us: int, day_seconds: int) -> agent_pb2.FlowBatch:
    processes = sorted({row.process for row in rows})
    longer = DAY_US // (day_seconds * 1_000_000)
    return agent_pb2.FlowBatch(
        from_us=began_us,
        until_us=began_us + DAY_US,
        workloads=["host"],
        rules=[""],
        processes=processes,
        workload=[0] * len(rows),
        rule=[0] * len(rows),
        process=[processes.index(row.process) for row in rows],
        direction=[row.ingress for row in rows],
        remotes=b"".join(mapped(row.remote) for row in rows),
        protocol=[row.protocol for row in rows],
        port=[row.port for row in rows],
        flows=[row.flows for row in rows],
        bytes_sent=[row.bytes_sent for row in rows],
        bytes_received=[row.bytes_received for row in rows],
        first_ms=[row.first_ms * longer for row in rows],
        last_ms=[row.last_ms * longer for row in rows],
        verdict=[FlowVerdict.OBSERVED] * len(rows),
    )


def mapped(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
