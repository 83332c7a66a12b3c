"""The agent's watcher, log reader and pipeline in the loop of a test, and programs whose connections they see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from segctl_agent.denials.attribute import Attributor
from segctl_agent.denials.counts import NameOf
from segctl_agent.denials.nflog import NflogReader
from segctl_agent.denials.pipeline import DenialPipeline
from segctl_agent.denials.sampler import DeniedSets
from segctl_agent.denials.values import Denial
from segctl_agent.facts.cgroups import CgroupWatcher

from tests.netns.spaces import CGROUPS
from tests.patience import patience

UNIT = "system.slice/shop.service"


class Told:
    """What the pipeline reported, and when."""

    def __init__(self) -> None:
        self.denials: list[Denial] = []
        self.times: list[float] = []
        self.lost = 0
        self.changed = asyncio.Event()

    def __call__(self, denials: list[Denial], lost: int) -> None:
        self.denials += denials
        self.times += [time.monotonic()] * len(denials)
        self.lost += lost
        self.changed.set()

    @property
    def packets(self) -> int:
        return sum(d.count for d in self.denials)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(patience(8)):
            while not condition():
                await self.changed.wait()
                self.changed.clear()


class Station:
    """Watcher, reader and pipeline in the loop of a test."""

    def __init__(self, buffer_bytes: int = 16 << 20, name_of: NameOf | None = None) -> None:
        """With `name_of`, the kernel's dynamic sets are read as well."""
        (CGROUPS / UNIT).mkdir(parents=True)
        loop = asyncio.get_running_loop()
        self.told = Told()
        self.watcher = CgroupWatcher(CGROUPS)
        self.watcher.start(loop, lambda added, removed: None)
        self.reader = NflogReader(buffer_bytes=buffer_bytes)
        self.attributor = Attributor(self.watcher.path_of, CGROUPS)
        self.pipeline = DenialPipeline(
            self.reader,
            self.attributor.attribute_many,
            self.told,
            lambda: 17,
            sets=DeniedSets() if name_of else None,
            name_of=name_of or (lambda direction, mark: None),
        )
        self.pipeline.start(loop)

    def close(self) -> None:
        self.pipeline.close()
        self.attributor.close()
        self.watcher.close()


async def program(code: str, cgroup: str = UNIT, uid: int = 65534) -> asyncio.subprocess.Process:
    """Python code as `uid` in a cgroup; what it made before the move would belong elsewhere."""
    start = (
        f"import os, socket, sys, time\nopen('{CGROUPS / cgroup}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        f"os.setuid({uid})\nsys.stdout.write('%f ' % time.monotonic())\n"
    )
    return await asyncio.create_subprocess_exec(
        "/usr/bin/python3", "-c", start + code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
