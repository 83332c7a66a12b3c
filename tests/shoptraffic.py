"""The recorded shop (lab/recording.py) in a controller of tests/controller_harness.py: enrolled hosts tell their flows
over mTLS, as if a day had taken a day and the last one had just ended.

async with running_controller(tmp_path) as lab, shop_traffic(lab, read_recording(SHOP_TRAFFIC)) as shop:
    ...                                               # its hosts are connected, and what they told is stored
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
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
async def shop_traffic(
    lab: ControllerLab, recording: Recording, until_us: int = 0, connected: Callable[[], object] = lambda: None
) -> AsyncIterator[ShopTraffic]:
    """`until_us`: when its last day ended, by the controller's clock; 0: now. `connected` is called when its hosts are,
    before they tell anything: a clock may go on."""
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
        connected()
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
    spans, longer = _spans(recording), DAY_US // (recording.day_seconds * 1_000_000)
    told = []
    for day in range(recording.days):
        rows = [row for row in recording.flows if (row.host, row.day) == (host, day)]
        seen = [spans[_between(recording, row)] for row in rows]
        batch = _batch(rows, since_us + day * DAY_US)
        batch.first_ms.extend(first * longer for first, _ in seen)
        batch.last_ms.extend(last * longer for _, last in seen)
        told.append(batch)
    return told


def _between(recording: Recording, row: RecordedFlows) -> Hashable:
    """The same for both ends of a connection."""
    far = recording.holder(row.remote) or row.remote
    return row.day, frozenset((row.host, far)), row.protocol, row.port


def _spans(recording: Recording) -> dict[Hashable, tuple[int, int]]:
    """When both ends together saw the flows between them, first and last. Each looked every five seconds of its own,
    which are hours in a day that is stretched: what happened at once would seem to be apart."""
    spans: dict[Hashable, tuple[int, int]] = {}
    for row in recording.flows:
        first, last = spans.get(_between(recording, row), (row.first_ms, row.last_ms))
        spans[_between(recording, row)] = min(first, row.first_ms), max(last, row.last_ms)
    return spans


def _batch(rows: Sequence[RecordedFlows], began_us: int) -> agent_pb2.FlowBatch:
    """Without the times of the rows."""
    processes = sorted({row.process for row in rows})
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
        verdict=[FlowVerdict.OBSERVED] * len(rows),
    )


def mapped(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
