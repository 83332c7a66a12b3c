"""What was acknowledged survives SIGKILL, and what was sent again after it is counted once."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

import pytest
from segctl_controller.flowstore.records import FlowFilter
from segctl_controller.flowstore.store import flow_store_on
from segctl_controller.store.conninfo import Conninfo, parse_conninfo

from tests.flowrows import KnownEnds
from tests.flowwriter import HOSTS, LIMITS, write
from tests.postgres import Server

PATIENCE = 30.0


def killed_again_and_again(where: Path | Conninfo, kills: int) -> dict[str, int]:
    """The last number of each host that was acknowledged."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.flowwriter"])
    draw, last = random.Random(20), {f"h{n}": 0 for n in range(HOSTS)}
    for _ in range(kills):
        ours, theirs = context.Pipe(duplex=False)
        # The last one that was acknowledged is told again: an agent does so when its acknowledgement was lost.
        begin = {host: max(number, 1) for host, number in last.items()}
        writer = context.Process(target=write, args=(where, begin, theirs))
        writer.start()
        theirs.close()
        assert ours.poll(PATIENCE), "nothing was stored"
        for _ in range(draw.randrange(4 * HOSTS)):
            host, number = ours.recv()
            last[host] = number
        writer.kill()
        writer.join()
        try:
            while ours.poll():
                host, number = ours.recv()
                last[host] = number
        except (EOFError, OSError):
            pass  # the pipe ends with its writer, perhaps in the middle of a message
    return last


@pytest.mark.parametrize(("engine", "kills"), [("duckdb", 20), ("postgresql", 5)])
def test_nothing_that_was_acknowledged_is_lost_or_counted_twice(
    engine: str, kills: int, tmp_path: Path, postgres_server: Server
) -> None:
    where: Path | Conninfo = tmp_path / "flows.duckdb"
    if engine == "postgresql":
        where = parse_conninfo(postgres_server.conninfo(postgres_server.database("template0")), tmp_path)
    last = killed_again_and_again(where, kills)
    assert sum(last.values()) > 2 * kills
    store = flow_store_on(where, KnownEnds(), LIMITS)
    for host, number in last.items():
        found = {row.key.port: row.flows for row in store.flows(FlowFilter(limit=10**6, host=host))}
        assert found.keys() >= set(range(1, number + 1)), f"{host}: acknowledged up to {number}"
        assert set(found.values()) <= {1}
    store.close()
