"""What an agent tells monitoring: of a real agent on a fake kernel."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from segctl.logs import EventCounter
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.monitor import METRICS, STALE_SECONDS, Monitor, reasons
from segctl_agent.reports import ReportQueue
from segctl_agent.session import Session

from tests.unit.segctl_agent.pki import Authority
from tests.unit.segctl_agent.test_agent import CULPRIT, POLICY, make, new

END = datetime(2027, 1, 1, tzinfo=UTC)
Samples = dict[tuple[str, ...], float]


async def samples(monitor: Monitor) -> Samples:
    text = (await monitor._page()).body.decode()
    families = text_string_to_metric_families(text)
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


async def test_what_happened_is_counted_and_nothing_is_named(tmp_path: Path) -> None:
    agent, kernel = make(tmp_path)
    session = Session(Authority().identity("db-1", ("127.0.0.1:1",)), agent, agent.reports, "boot")
    counter = EventCounter()
    logging.getLogger("segctl_agent").addHandler(counter)
    logging.getLogger("segctl_agent").setLevel(logging.INFO)
    monitor = Monitor(agent, session, counter, lambda: END, lambda: 2)
    try:
        agent.start()
        assert monitor.unready() == ("no generation is in force",)
        first = await samples(monitor)
        assert first["segctl_agent_generation",] == 0
        await agent.put(new(POLICY))
        kernel.destroy()
        agent.changed_by(CULPRIT)
        agent.tally.denied(True, "denied", 3)
        agent.reports.add_denial(pb.Denial(workload="secret-db", count=3))
    finally:
        logging.getLogger("segctl_agent").removeHandler(counter)
        logging.getLogger("segctl_agent").setLevel(logging.NOTSET)
    found = await samples(monitor)
    assert monitor.unready() == ()
    assert found["segctl_agent_generation",] == 5
    assert (found["segctl_agent_workloads", "enforce"], found["segctl_agent_workloads", "observe"]) == (1, 1)
    assert found["segctl_agent_heals_total",] == 1
    assert found["segctl_agent_events_total", "tamper"] == 1
    assert found["segctl_agent_events_total", "policy"] == 1
    assert found["segctl_agent_kernel_apply_seconds_count",] == 1
    assert found["segctl_agent_denials_total", "in", "denied"] == 3
    assert found["segctl_agent_reports_queued",] >= 2
    assert found["segctl_agent_certificate_expiry_timestamp_seconds",] == END.timestamp()
    assert found["segctl_agent_foreign_findings",] == 2
    assert found["segctl_agent_connected",] == 0
    text = (await monitor._page()).body.decode()
    for name in ("db-1", "web-to-db", "10.0.0.1", "secret-db", "iptables", "db.service", POLICY.policy_digest):
        assert name not in text
    exposed = {m.exposed for m in METRICS if m.kind != "histogram" and "conntrack" not in m.name}
    assert exposed <= {name for name, *_ in found}


def test_why_an_agent_is_not_ready() -> None:
    assert reasons(released=False, generation=5, behind=False, age=1) == ()
    assert reasons(released=True, generation=0, behind=False, age=9e9) == ("released: nothing is enforced",)
    late = reasons(released=False, generation=5, behind=True, age=STALE_SECONDS + 1)
    assert late == ("the kernel refuses what it should hold", "the kernel's table was not compared for 61 s")


def test_what_is_lost_is_counted_once() -> None:
    queue = ReportQueue(max_denials=2, max_flow_bytes=1)
    for _ in range(5):
        queue.add_denial(pb.Denial(count=10))
    queue.add_flows(pb.FlowBatch(flows=[3, 4]))
    assert queue.lost_so_far == {"denials": 30, "events": 0, "flows": 7}
    while queue.next_batch() is not None:
        pass
    queue.drop_refused()
    assert queue.lost_so_far == {"denials": 50, "events": 0, "flows": 7}
    queue.next_batch()
    queue.drop_refused()  # what was told as lost, and is to be told again
    assert queue.lost_so_far == {"denials": 50, "events": 0, "flows": 7}
