from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.reports import BATCH_DENIALS, WINDOW, ReportQueue


def denial(workload: str = "db", count: int = 1) -> pb.Denial:
    return pb.Denial(workload=workload, count=count, verdict="denied")


def flows(count: int = 1, lost: int = 0) -> pb.FlowBatch:
    return pb.FlowBatch(from_us=1, until_us=2, flows=[count], workload=[0], workloads=["shop"], lost=lost)


def drain(queue: ReportQueue) -> list[pb.ReportBatch]:
    batches = []
    while (batch := queue.next_batch()) is not None:
        batches.append(batch)
    return batches


def test_an_empty_queue_has_nothing_to_send() -> None:
    assert ReportQueue().next_batch() is None


def test_batches_are_numbered_within_the_epoch() -> None:
    queue = ReportQueue()
    for _ in range(BATCH_DENIALS + 1):
        queue.add_denial(denial())
    queue.add_event(pb.Event(kind="tamper"))
    first, second = drain(queue)
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.epoch == second.epoch == queue.epoch != ReportQueue().epoch
    assert (len(first.denials), len(second.denials)) == (BATCH_DENIALS, 1)
    assert [e.kind for e in first.events] == ["tamper"]


def test_what_is_not_acknowledged_goes_again_under_its_old_number() -> None:
    queue = ReportQueue()
    for name in ("a", "b", "c"):
        queue.add_denial(denial(name))
        assert queue.next_batch() is not None
    queue.acknowledge(1)
    queue.add_denial(denial("d"))
    queue.reconnected()
    assert [(b.sequence, b.denials[0].workload) for b in drain(queue)] == [(2, "b"), (3, "c"), (4, "d")]
    queue.acknowledge(4)
    queue.reconnected()
    assert drain(queue) == []
    assert queue.waiting == 0


def test_without_acks_the_window_closes_and_nothing_is_lost() -> None:
    queue = ReportQueue()
    for number in range(WINDOW + 3):
        queue.add_denial(denial(str(number)))
        queue.next_batch()
    queue.acknowledge(WINDOW)
    assert [d.workload for b in drain(queue) for d in b.denials] == [str(n) for n in range(WINDOW, WINDOW + 3)]


def test_the_oldest_make_room_and_count_as_lost_by_their_connections() -> None:
    queue = ReportQueue(max_denials=2)
    for number in range(5):
        queue.add_denial(denial(str(number), count=10))
    assert queue.lost == 30
    batch = queue.next_batch()
    assert batch is not None
    assert [d.workload for d in batch.denials] == ["3", "4"]
    assert batch.lost == 30
    assert queue.lost == 0


def test_bytes_are_bounded_too() -> None:
    queue = ReportQueue(max_bytes=10 * denial("x" * 100).ByteSize())
    for _ in range(100):
        queue.add_denial(denial("x" * 100))
    assert queue.waiting == 10
    assert queue.lost == 90


def test_lost_alone_is_worth_a_batch() -> None:
    queue = ReportQueue()
    queue.add_lost(7)
    batch = queue.next_batch()
    assert batch is not None
    assert batch.lost == 7


def test_too_many_events_are_counted() -> None:
    queue = ReportQueue()
    for number in range(1010):
        queue.add_event(pb.Event(kind="facts", message=str(number)))
    batch = queue.next_batch()
    assert batch is not None
    assert batch.events[0].message.startswith("10 older events")
    assert batch.events[1].message == "10"


def test_a_batch_that_the_controller_refuses_is_given_up_and_counted() -> None:
    queue = ReportQueue()
    queue.add_denial(denial(count=4))
    assert queue.next_batch() is not None
    assert queue.drop_refused() == 1
    batch = queue.next_batch()
    assert batch is not None
    assert (batch.lost, len(batch.denials)) == (4, 0)


def test_each_batch_bears_one_window_of_flows_beside_denials() -> None:
    queue = ReportQueue()
    queue.add_flows(flows(1))
    queue.add_flows(flows(2))
    queue.add_denial(denial())
    assert queue.waiting == 3
    first, second = drain(queue)
    assert ([list(b.flows.flows) for b in (first, second)], len(first.denials)) == ([[1], [2]], 1)
    queue.reconnected()
    assert drain(queue) == [first, second]
    queue.acknowledge(2)
    assert queue.waiting == 0


def test_the_oldest_windows_make_room_and_their_flows_count_as_lost() -> None:
    queue = ReportQueue(max_flow_bytes=2 * flows().ByteSize())
    for count in (3, 4, 5, 6):
        queue.add_flows(flows(count, lost=1))
    sent = drain(queue)
    assert sum(b.flows.lost for b in sent) + sum(sum(b.flows.flows) for b in sent) == 3 + 4 + 5 + 6 + 4
    assert [list(b.flows.flows) for b in sent] == [[6]]
    assert not sent[0].lost  # those are denials


def test_a_refused_window_is_given_up_and_its_flows_are_lost() -> None:
    queue = ReportQueue()
    queue.add_flows(flows(4, lost=1))
    assert queue.next_batch() is not None
    assert queue.drop_refused() == 1
    batch = queue.next_batch()
    assert batch is not None
    assert (batch.flows.lost, list(batch.flows.flows)) == (5, [])


def test_the_newest_count_of_a_rule_is_sent() -> None:
    queue = ReportQueue()
    queue.add_hits([pb.RuleHits(rule="a", count=1), pb.RuleHits(rule="a", ingress=True, count=2)])
    queue.add_hits([pb.RuleHits(rule="a", count=5)])
    (batch,) = drain(queue)
    assert [(h.rule, h.ingress, h.count) for h in batch.hits] == [("a", False, 5), ("a", True, 2)]
    assert queue.next_batch() is None


@given(st.lists(st.sampled_from(["add", "flows", "lost", "send", "ack", "ack late", "break"]), max_size=80))
def test_every_connection_is_delivered_once_or_counted_as_lost(steps: list[str]) -> None:
    """The controller stores by (epoch, sequence): whatever breaks in between, the sums fit."""
    queue = ReportQueue(max_denials=3, max_flow_bytes=3 * flows(3).ByteSize())
    stored: dict[int, pb.ReportBatch] = {}
    produced = seen = 0
    for step in steps:
        if step == "add":
            produced += 2
            queue.add_denial(denial(count=2))
        elif step == "flows":
            seen += 3
            queue.add_flows(flows(3))
        elif step == "lost":
            produced += 1
            queue.add_lost(1)
        elif step == "send" and (batch := queue.next_batch()) is not None:
            assert stored.get(batch.sequence, batch) == batch
            stored[batch.sequence] = batch
        elif step == "ack":
            queue.acknowledge(max(stored, default=0))
        elif step == "ack late":
            queue.acknowledge(max(stored, default=0) - 1)
        elif step == "break":
            queue.reconnected()
    queue.reconnected()
    while batches := drain(queue):
        stored.update({batch.sequence: batch for batch in batches})
        queue.acknowledge(max(stored))
    assert queue.waiting == queue.lost == 0
    assert sum(b.lost + sum(d.count for d in b.denials) for b in stored.values()) == produced
    assert sum(b.flows.lost + sum(b.flows.flows) for b in stored.values()) == seen
