"""The containers of a host as their cgroups come and go: what is asked, when, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from segctl_agent.facts.containers import ContainerRef
from segctl_agent.facts.containerstate import Reading
from segctl_agent.facts.containerwatch import BACKOFF_SECONDS, ContainerWatcher
from segctl_agent.facts.values import ContainerFact

ID = "ab" * 32
PATH = f"machine.slice/libpod-{ID}.scope"
WEB = Reading("web1", 77, (ip_address("10.88.0.6"),))
FACT = ContainerFact(ID, "web1", PATH, 77, (ip_address("10.88.0.6"),))


class Answers:
    """A reader that answers in turn, the last for ever."""

    def __init__(self, *answers: Reading) -> None:
        self.answers = list(answers)
        self.reads = 0

    def read(self, refs: Iterable[ContainerRef]) -> list[Reading]:
        return [self._answer() for _ in refs]

    def _answer(self) -> Reading:
        self.reads += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def bridges(self) -> tuple[str, ...]:
        return ("podman0",)


class Told:
    def __init__(self, reader: Answers, backoff: Sequence[float] = BACKOFF_SECONDS, most: int = 100) -> None:
        self.reader = reader
        self.changes: list[tuple[ContainerFact, ...]] = []
        self.problems: list[str] = []
        loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.watcher = ContainerWatcher(reader, loop, self._take, self.problems.append, backoff, most)

    def _take(self, containers: tuple[ContainerFact, ...], bridges: tuple[str, ...]) -> None:
        assert bridges == ("podman0",)
        self.changes.append(containers)
        self.changed.set()


async def test_a_container_that_is_complete_at_once_is_read_once() -> None:
    told = Told(Answers(WEB))
    told.watcher.cgroups_changed({"machine.slice": 1, PATH: 2, f"{PATH}/container": 3}, {})
    assert told.changes == [(FACT,)]
    assert told.reader.reads == 1


async def test_what_is_missing_is_asked_for_again() -> None:
    told = Told(Answers(Reading(), Reading("web1"), Reading("web1", 0), WEB))
    told.watcher.cgroups_changed({PATH: 2}, {})
    assert told.changes == [()]
    async with asyncio.timeout(5):
        while told.changes[-1] != (FACT,):
            await told.changed.wait()
            told.changed.clear()
    assert told.reader.reads == 4
    told.watcher.close()


async def test_a_container_that_goes_is_forgotten_and_asked_for_no_more() -> None:
    told = Told(Answers(Reading("web1", 0)))
    told.watcher.cgroups_changed({PATH: 2}, {})
    told.watcher.cgroups_changed({}, {PATH: 2})
    assert told.changes[-1] == ()
    reads = told.reader.reads
    await asyncio.sleep(0.05)
    assert told.reader.reads == reads


async def test_one_that_starts_anew_under_its_path_is_read_anew() -> None:
    told = Told(Answers(WEB, Reading("web1", 78, WEB.addresses)))
    told.watcher.cgroups_changed({PATH: 2}, {})
    told.watcher.cgroups_changed({PATH: 9}, {PATH: 2})
    assert [c.network for (c,) in told.changes] == [77, 78]


async def test_a_network_that_is_attached_later_is_found_by_a_refresh() -> None:
    told = Told(Answers(WEB, Reading("web1", 77, (*WEB.addresses, ip_address("10.89.0.2")))))
    told.watcher.cgroups_changed({PATH: 2}, {})
    told.watcher.refresh()
    assert [len(c.addresses) for (c,) in told.changes] == [1, 2]


async def test_a_name_that_never_comes_is_told_once() -> None:
    told = Told(Answers(Reading("", 77)), backoff=(0.001, 0.001))
    told.watcher.cgroups_changed({PATH: 2}, {})
    await asyncio.sleep(0.1)
    assert told.changes == [()]  # unknown is closed, never `host`
    (problem,) = told.problems
    assert ID[:12] in problem
    assert "operations.md" in problem


async def test_the_number_of_containers_is_bounded() -> None:
    told = Told(Answers(WEB), most=2)
    told.watcher.cgroups_changed({f"machine.slice/libpod-{n:064x}.scope": n for n in range(5)}, {})
    assert len(told.changes[-1]) == 2
    assert len(told.problems) == 1
