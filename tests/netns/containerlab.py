"""The network of the container tests, and what runs in it: an agent's watchers and enforcer, and small programs.

remote 10.99.0.2 ── 10.99.0.1 host ── podman0 10.88.0.1 ── containers
       10.99.0.3                  ├── podman1 10.89.0.1 ── containers of the network "other"
                                  └── 10.98.0.1 ── 10.98.0.2 a neighbour, for whom the host is a router
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from segctl_agent.denials.attribute import Attributor
from segctl_agent.denials.contained import ContainedAttributor
from segctl_agent.denials.nflog import NflogReader
from segctl_agent.denials.packet import parse_packet
from segctl_agent.denials.values import LoggedPacket
from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.cgroups import CgroupWatcher
from segctl_agent.facts.containers import ContainerRef
from segctl_agent.facts.containerstate import ContainerReader, Reading
from segctl_agent.facts.containerwatch import ContainerWatcher
from segctl_agent.facts.values import ContainerFact
from segctl_agent.nft.kernel import NetlinkKernel

from tests.netns.podman import PODMAN, PRIVILEGED, UNLOGGED, PodmanHost
from tests.netns.spaces import CGROUPS, Space, join
from tests.patience import patience

OWN, REMOTE, STRANGER, NEIGHBOUR = "10.99.0.1", "10.99.0.2", "10.99.0.3", "10.98.0.2"

PROGRAM = """
import os, socket, sys, threading
if cgroup := sys.argv.pop(1): open(f"/sys/fs/cgroup/{cgroup}/cgroup.procs", "w").write("0")
"""
LISTEN = (
    PROGRAM
    + """
def serve(port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port)); s.listen(64)
    while True: s.accept()[0].close()
for p in sys.argv[1:]: threading.Thread(target=serve, args=(int(p),)).start()
print("ready", flush=True)
"""
)
ECHO = (
    PROGRAM
    + """
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen(4)
print("ready", flush=True)
def serve(c):
    while data := c.recv(100): c.sendall(data)
while True: threading.Thread(target=serve, args=(s.accept()[0],)).start()
"""
)
TALK = (
    PROGRAM
    + """
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5, source_address=(sys.argv[3], 0))
s.settimeout(float(sys.argv[4]))
for line in sys.stdin:
    try: s.sendall(b"x"); print("answered" if s.recv(1) else "closed", flush=True)
    except OSError as e: print(e, flush=True)
"""
)
ANSWER = (
    PROGRAM
    + """
s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True: s.sendto(*s.recvfrom(100))
"""
)
ASK = (
    PROGRAM
    + """
s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1); s.connect((sys.argv[1], int(sys.argv[2])))
for _ in range(3):  # of zeros: where TCP has its flags, there is no SYN
    try: s.send(bytes(50)); s.recv(100); print("answered"); break
    except OSError as e: last = str(e)
else: print(last)
"""
)
CONNECT = (
    PROGRAM
    + """
to, seconds, source = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3]), (sys.argv[4], 0)
try: socket.create_connection(to, timeout=seconds, source_address=source)
except OSError as e: print(e)
else: print("connected")
"""
)


@dataclass
class Lab:
    host: PodmanHost
    remote: Space
    neighbour: Space

    def play(self, scenario: Callable[[Machine], Awaitable[None]]) -> None:
        """Runs a scenario on the host, with an agent's watchers and enforcer in its loop."""

        async def scene() -> None:
            machine = Machine(self.remote.pid, self.neighbour.pid)
            try:
                await scenario(machine)
            finally:
                machine.close()

        try:
            self.host.space.run(lambda: asyncio.run(scene()))
        finally:
            self.host.podman("rm", "-f", "-a", "-t", "0")


@contextmanager
def container_lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        host = PodmanHost()
        stack.callback(host.close)
        remote, neighbour = Space("remote"), Space("neighbour")
        for space in (remote, neighbour):
            stack.callback(space.close)
        join(host.space, remote, "eth0", "eth0")
        join(host.space, neighbour, "eth1", "eth0")
        host.space.sh(
            f"ip addr add {OWN}/24 dev eth0; ip addr add 10.98.0.1/24 dev eth1; sysctl -qw net.ipv4.ip_forward=1"
        )
        remote.sh(
            f"ip addr add {REMOTE}/24 dev eth0; ip addr add {STRANGER}/24 dev eth0; ip route add default via {OWN}"
        )
        neighbour.sh(f"ip addr add {NEIGHBOUR}/24 dev eth0; ip route add default via 10.98.0.1")
        host.podman("network", "create", "--subnet", "10.89.0.0/24", "other")
        yield Lab(host, remote, neighbour)


class SlowReader(ContainerReader):
    """A reader that learns nothing of a container as long as it is told so."""

    blind = ""

    def read(self, refs: Iterable[ContainerRef]) -> list[Reading]:
        return [Reading() if self.blind and self.blind == r.name else r for r in super().read(refs)]


class Machine:
    """What an agent has, in the loop of a scenario, and processes here, in containers' networks, and at the remote."""

    def __init__(self, remote: int, neighbour: int) -> None:
        self.remote, self.neighbour = remote, neighbour
        loop = asyncio.get_running_loop()
        self.kernel = NetlinkKernel()
        self.enforcer = Enforcer(self.kernel, lambda names: {}, agent_uid=0)
        self.enforcer.addresses_changed(frozenset(map(ip_address, (OWN, "10.88.0.1", "127.0.0.1"))))
        self.logged: list[LoggedPacket] = []
        self.reader = NflogReader()
        self.reader.start(loop, self.logged.extend)
        self.problems: list[str] = []
        self.slow = SlowReader(CGROUPS)
        self.containers = ContainerWatcher(self.slow, loop, self.enforcer.containers_changed, self.problems.append)
        self.cgroups = CgroupWatcher(CGROUPS)
        (CGROUPS / "db").mkdir(exist_ok=True)
        self.cgroups.start(loop, self._cgroups_changed)
        self.attributor = Attributor(self.cgroups.path_of, CGROUPS)
        self._processes: list[asyncio.subprocess.Process] = []

    def _cgroups_changed(self, added: dict[str, int], removed: dict[str, int]) -> None:
        self.enforcer.cgroups_changed(added, removed)
        self.containers.cgroups_changed(added, removed)

    def close(self) -> None:
        self.containers.close()
        self.cgroups.close()
        self.reader.close()
        self.attributor.close()
        for process in self._processes:
            if process.returncode is None:
                process.kill()
        self.enforcer.destroy()

    async def answer(self, port: int, cgroup: str = "") -> None:
        """A server of datagrams here."""
        await self._ready(await self._start(None, ANSWER, cgroup, str(port)))

    async def ask(self, address: str, port: int, network: int) -> str:
        process = await self._start(network, ASK, "", address, str(port))
        return (await process.communicate())[0].decode().strip()

    async def echo(self, port: int, network: int) -> None:
        await self._ready(await self._start(network, ECHO, "", str(port)))

    async def session(self, address: str, port: int, network: int, source: str = "") -> Callable[[], Awaitable[str]]:
        """Opens a connection; each call of what comes back sends a byte and tells what became of it."""
        process = await self._start(network, TALK, "", address, str(port), source, str(patience(2)))
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        async def say() -> str:
            stdin.write(b"go\n")
            return (await asyncio.wait_for(stdout.readline(), patience(10))).decode().strip()

        return say

    async def listen(self, *listen: int, network: int | None = None, cgroup: str = "") -> None:
        """A server here, or in the network of another process, until the scenario ends."""
        await self._ready(await self._start(network, LISTEN, cgroup, *map(str, listen)))

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    async def connect(
        self,
        address: str,
        port: int,
        *,
        network: int | None = None,
        source: str = "",
        cgroup: str = "",
        seconds: float = 5,
    ) -> str:
        """ "connected", or why not."""
        process = await self._start(network, CONNECT, cgroup, address, str(port), str(seconds), source)
        out, _ = await process.communicate()
        return out.decode().strip()

    async def run(self, name: str, *options: str, port: int = 0, known: bool = True) -> int:
        """Starts a container, which listens on a port, and waits until it is known. Answers a pid of it."""
        there = set(CGROUPS.glob("libpod_parent/libpod-*"))
        fixed = (
            *PODMAN,
            "run",
            "-d",
            "--name",
            name,
            *PRIVILEGED,
            *UNLOGGED,
            *options,
            "box",
            "/serve",
            *([str(port)] if port else []),
        )
        assert await (await asyncio.create_subprocess_exec(*fixed, stdout=asyncio.subprocess.DEVNULL)).wait() == 0
        (cgroup,) = set(CGROUPS.glob("libpod_parent/libpod-*")) - there
        if known:
            await self.until(lambda: name in self.facts and ("host" in options or bool(self.facts[name].addresses)))
        return int((cgroup / "cgroup.procs").read_text().split()[0])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(patience(10)):
            while not condition():  # noqa: ASYNC110 - of several things that have no event
                await asyncio.sleep(0.01)

    async def told(self, direction: str, workload: str) -> None:
        """Waits until a denial of this workload was logged."""
        await self.until(
            lambda: (direction, workload) in {(p.prefix.direction, p.prefix.workload) for p in self.logged}
        )

    async def _start(self, network: int | None, code: str, *arguments: str) -> asyncio.subprocess.Process:
        enter = ("nsenter", "-t", str(network), "-n") if network is not None else ()
        command = (*enter, "/usr/bin/python3", "-c", code, *arguments)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        self._processes.append(process)
        return process

    @property
    def facts(self) -> dict[str, ContainerFact]:
        return {c.name: c for c in self.enforcer.facts.containers}

    def attributed(self) -> set[str]:
        """Whom the logged packets are laid to, in the place of a unit."""
        packets = [(logged, packet) for logged in self.logged if (packet := parse_packet(logged.payload)) is not None]
        contained = ContainedAttributor(lambda: self.enforcer.facts.containers, self.attributor.attribute_many)
        return {found.process.unit for found in contained.attribute_many(packets)}

    def address(self, name: str) -> str:
        return str(self.facts[name].addresses[0])
