"""The wired service against a fake table; sockets are the machine's own, and none has these ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from segctl import wire
from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.conntrack.reader import Tally
from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.conversation import ImpactAsked
from segctl_agent.denials.attribute import Attributor
from segctl_agent.facts.values import Endpoint
from segctl_agent.flows.decisions import DecisionId
from segctl_agent.flows.service import FlowService, summary
from segctl_agent.flows.sweep import Swept

from tests.unit.segctl_agent.flows.rows import Layout, mark, policy, row

POLICY = policy(LocalWorkload("shop", Process(ProcessKind.UNIT, "shop.service"), Mode.ENFORCE))
FLOW = row("192.0.2.1", 5000, "192.0.2.2", 443, mark=mark(outgoing=2))


class FakeTable:
    def __init__(self) -> None:
        self.rows: tuple[ConntrackRow, ...] = (FLOW,)
        self.error, self.entries, self.asked = "", 0, list[tuple[int, int]]()

    def read(self, tally: Tally | None = None, *, mark: int = 0, mask: int = 0) -> Iterator[Sequence[ConntrackRow]]:
        if self.error:
            raise KernelError(self.error)
        self.asked.append((mark, mask))
        yield [r for r in self.rows if r.mark & mask == mark]

    def count(self) -> int:
        return self.entries

    def delete(self, row: ConntrackRow) -> bool:
        found = row in self.rows
        self.rows = tuple(r for r in self.rows if r != row)
        return found


class Stage:
    def __init__(self) -> None:
        self.table, self.batches = FakeTable(), list[pb.FlowBatch]()
        self.problems = list[str]()
        self.policy: HostPolicy | None = POLICY
        self.live: dict[DecisionId, str] = {("out", 2): "shop"}
        attributor = Attributor(lambda _: None)
        self.service = FlowService(
            "web-1",
            Layout(),
            lambda: self.policy,
            lambda: self.live,
            lambda: None,
            lambda _: None,
            attributor,
            lambda: (Endpoint(ip_address("192.0.2.200"), 7443),),
            self.batches.append,
            self.table,
            self.problems.append,
        )


async def test_a_forbidden_flow_under_a_dead_id_is_forgotten_and_its_neighbour_is_not() -> None:
    stage = Stage()
    stage.service.committed()
    neighbour = row("192.0.2.1", 5001, "192.0.2.2", 443, mark=mark(outgoing=3))
    stage.table.rows = (FLOW, neighbour)
    stage.live = {("out", 3): "shop"}
    assert await stage.service.sweep() == Swept(dead=1, forgotten=1)
    assert stage.table.rows == (neighbour,)


async def test_in_a_large_table_the_kernel_picks_the_flows_of_ids_that_died() -> None:
    stage = Stage()
    stage.live = {("out", 2): "shop", ("in", 3): "shop", ("out", 4): "host"}
    lingers = row("192.0.2.9", 5001, "192.0.2.1", 443, mark=mark(incoming=3))
    stage.table.rows, stage.table.entries = (FLOW, lingers), 100_000
    await stage.service.sweep()
    assert stage.table.asked == [(0, 0)]  # nobody knows what was dead before
    stage.policy, stage.live = policy(host=Mode.OBSERVE), {("out", 4): "host"}
    assert await stage.service.sweep() == Swept(dead=2)  # permitted now, and under dead ids until their next packet
    assert stage.table.asked[1:] == [(3 << 8, 0xFFF00), (2 << 20, 0xFFF00000)]
    stage.policy, stage.live = POLICY, {("out", 5): "host"}
    assert await stage.service.sweep() == Swept(dead=2, forgotten=2)
    assert stage.table.asked[3:] == [(3 << 8, 0xFFF00), (2 << 20, 0xFFF00000), (4 << 20, 0xFFF00000)]


async def test_essentials_and_the_agents_own_channel_are_spared() -> None:
    stage = Stage()
    stage.live = {("in", 1): "", ("out", 2): "shop"}
    stage.service.committed()
    rescue = row("192.0.2.9", 6000, "192.0.2.1", 22, mark=mark(incoming=1))
    channel = row("192.0.2.1", 5001, "192.0.2.200", 7443, mark=mark(outgoing=77))
    stage.table.rows, stage.live = (rescue, channel), {}
    assert await stage.service.sweep() == Swept()


async def test_what_cannot_be_read_or_attributed_is_told() -> None:
    stage = Stage()
    stage.live = {}
    swept = await stage.service.sweep()  # whose it was, nobody ever said
    assert (swept.dead, swept.lingering, stage.table.rows) == (1, 1, (FLOW,))
    assert "1 end at their next packet (the workload" in summary(swept)
    assert await stage.service.sweep() == Swept()  # nothing died since
    stage.live = {("out", 5): "shop"}
    stage.service.committed()
    stage.table.error, stage.live = "no conntrack", {}
    assert list((await stage.service.sweep()).problems) == ["no conntrack"]
    stage.table.error = ""
    assert (await stage.service.sweep()).dead == 1  # what died then is not forgotten
    stage.policy = None
    assert await stage.service.sweep() == Swept()


async def test_an_impact_knows_ids_that_died_since() -> None:
    stage = Stage()
    stage.service.committed()
    stage.live = {}
    draft = wire.host_policy_to_wire(policy(host=Mode.OBSERVE)).SerializeToString()
    reply = await stage.service.impact(ImpactAsked(4, draft, 1))
    assert (reply.id, reply.live, reply.cut, reply.error) == (4, 1, 0, "")


async def test_a_kernel_without_conntracks_dumps_is_told_once_and_not_every_second() -> None:
    stage = Stage()
    stage.table.error = "no nf_conntrack_netlink"
    for _ in range(3):
        await stage.service.sweep()
    assert [p for p in stage.problems if "no nf_conntrack_netlink" in p] == stage.problems
    assert len(stage.problems) == 1
    stage.table.error = ""
    assert (await stage.service.sweep()).dead == 0  # what died meanwhile is looked for then
    assert stage.table.asked == [(0, 0)]
