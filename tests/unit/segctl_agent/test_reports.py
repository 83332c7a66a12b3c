from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.reports import BATCH_DENIALS, WINDOW, ReportQueue


def denial(workload: str = "db", count: int = 1) -> pb.Denial:
    return pb.Denial(workload=workload, count=count, verdict="denied")


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


@given(st.lists(st.sampled_from(["add", "lost", "send", "ack", "ack late", "break"]), max_size=80))
def test_every_connection_is_delivered_once_or_counted_as_lost(steps: list[str]) -> None:
    """The controller stores by (epoch, sequence): whatever breaks in between, the sums fit."""
    queue = ReportQueue(max_denials=3)
    stored: dict[int, pb.ReportBatch] = {}
    produced = 0
    for step in steps:
        if step == "add":
            produced += 2
            queue.add_denial(denial(count=2))
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
    while True:
        for batch in drain(queue):
            stored[batch.sequence] = batch
        queue.acknowledge(max(stored, default=0))
        if not queue.waiting and not queue.lost:
            break
    assert sum(b.lost + sum(d.count for d in b.denials) for b in stored.values()) == produced
