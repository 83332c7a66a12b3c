"""What the measurements in the lab share: the shop's fleet with its policy in force, and a host's network namespace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from segctl_agent.state import StateFolder

from bench.policies import server_policy
from bench.sandbox import entered
from lab.fleet import AGENT_STATE, Fleet
from lab.host import REPOSITORY, LabHost
from lab.wait import until

SHOP = REPOSITORY / "examples" / "shop"
EXTRA_RULE = """version: 1
rules:
  - name: bench-extra
    from: {workload: shop-web}
    to: {workload: shop-api}
    within: [app, env]
    allow: [ssh]
    owner: bench
    why: so that two policies differ on several hosts
    review: 2030-05-01
"""


@contextmanager
def shop_in_force() -> Iterator[Fleet]:
    """The lab's fleet, every managed host in sync with examples/shop."""
    with Fleet() as fleet:
        until("every agent is connected", lambda: all(h["connected"] for h in fleet.document("status")["hosts"]), 30)
        fleet.push(SHOP)
        fleet.await_in_sync()
        yield fleet


def two_policies(fleet: Fleet) -> tuple[Path, Path]:
    """The shop's policy, and the same with one rule more, where the administrator can read them."""
    directories = tuple(fleet.lab.instance.directory / f"policy-{name}" for name in ("plain", "extra"))
    for directory in directories:
        shutil.copytree(SHOP, directory)
    (directories[1] / "extra.yaml").write_text(EXTRA_RULE)
    return directories[0], directories[1]


@contextmanager
def in_network_of(host: LabHost) -> Iterator[None]:
    """This thread works in the host's network namespace."""
    descriptor = os.open(f"/proc/{host.place.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(descriptor):
            yield
    finally:
        os.close(descriptor)


def store_policy(fleet: Fleet, host: str, entries: int) -> None:
    """A policy of so many entries as the last good generation of a host, written as its agent's own user would."""
    policy = replace(server_policy(entries), host=host, generation=1_000)
    directory = fleet.lab.hosts[host].state / "lib" / Path(AGENT_STATE).name
    owner = directory.stat()
    StateFolder(directory).write_generation(policy, (1, 1))
    for path in directory.glob("generation.*"):
        os.chown(path, owner.st_uid, owner.st_gid)
