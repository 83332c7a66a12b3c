"""Debian's own firewalld, fail2ban and Docker, started for real inside a `Space`, as tools/neighbours.sh unpacked them.

To be used in a function that runs in the space. They write below /run, /etc and /var/log, which are the space's own.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.netns.spaces import CGROUPS, run

ROOT = Path(__file__).parents[2] / "build" / "neighbours" / "root"
ZONE = """<?xml version="1.0" encoding="utf-8"?>
<zone>
  <short>Public</short>
  <service name="ssh"/>
  {ports}
</zone>
"""
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
"""It starts no services: without polkit firewalld lets root do what it asks for."""
JAIL = """[DEFAULT]
banaction = nftables-multiport
backend = polling
[sshd]
enabled = true
port = {port}
filter = sshd
logpath = /var/log/auth.log
blocktype = drop
"""
_PROGRAMS = ("dbus-daemon", "firewalld", "fail2ban-server", "dockerd")
HELLO = r"""
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int n, char **words) {
  int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(words[n - 1]))};
  setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 16)) return 1;
  for (;;) { int c = accept(s, 0, 0); if (c >= 0) { if (write(c, "hello\n", 6) < 0) return 1; close(c); } }
}
"""
"""A server without libraries, so that it runs in a container of nothing else."""


def prepare() -> Path:
    """The programs in their places, in this mount namespace; answers the path of the server `hello`."""
    assert (ROOT.parent / ".complete").exists(), "run tools/neighbours.sh first (`make test` does)"
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for name in ("dbus", "firewalld", "lock", "fail2ban", "over/upper", "over/work", "image"):
        Path("/run", name).mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/var/log")
    over = f"lowerdir={ROOT}/etc:/etc,upperdir=/run/over/upper,workdir=/run/over/work"
    run("mount", "-t", "overlay", "overlay", "-o", over, "/etc")
    run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={ROOT}/usr:/usr", "/usr")
    run("gcc", "-O", "-static", "-x", "c", "-o", "/run/image/hello", "-", stdin=HELLO)
    return Path("/run/image/hello")


def spawn(*command: str, cgroup: str = "system.slice/neighbour.service") -> subprocess.Popen[bytes]:
    """In a cgroup of its own, as a unit would be. Its output is in /var/log."""
    (CGROUPS / cgroup).mkdir(parents=True, exist_ok=True)
    join = ["sh", "-c", f'echo $$ >{CGROUPS / cgroup}/cgroup.procs; exec "$@"', "sh"]
    with Path("/var/log", Path(command[0]).name).open("ab") as log:
        return subprocess.Popen([*join, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def tables(names: Sequence[str]) -> str:
    """What the tables hold, without what changes by itself: counters, elements with an expiry."""
    listing = "".join(run("nft", "list", "table", *name.split()) for name in names)
    return re.sub(r"packets \d+ bytes \d+", "", listing)


class Firewalld:
    """The zone public, with these TCP ports open."""

    tables = ("inet firewalld",)

    def __init__(self, ports: Sequence[int]) -> None:
        lines = "\n  ".join(f'<port port="{p}" protocol="tcp"/>' for p in ports)
        Path("/etc/firewalld/zones/public.xml").write_text(ZONE.format(ports=lines))
        Path("/run/dbus/bus.conf").write_text(BUS)
        self._bus = spawn("dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile")

    def start(self) -> None:
        self._process = spawn("firewalld", "--nofork", "--nopid")

    def up(self) -> bool:
        return succeeds("firewall-cmd", "--state")

    def reload(self) -> None:
        run("firewall-cmd", "--reload")

    def stop(self) -> None:
        stop(self._process)


class Fail2ban:
    """The jail sshd on a TCP port, with the action nftables-multiport."""

    tables = ("inet f2b-table",)

    def __init__(self, port: int, banned: str) -> None:
        self._banned = banned
        Path("/var/log/auth.log").touch()
        shutil.rmtree("/etc/fail2ban/jail.d")
        Path("/etc/fail2ban/jail.local").write_text(JAIL.format(port=port))
        Path("/etc/fail2ban/fail2ban.local").write_text("[DEFAULT]\ndbfile = None\n")

    def start(self) -> None:
        self._process = spawn("fail2ban-server", "-f", "start")

    def up(self) -> bool:
        return succeeds("fail2ban-client", "ping") and succeeds("fail2ban-client", "set", "sshd", "banip", self._banned)

    def ban(self, address: str) -> None:
        run("fail2ban-client", "set", "sshd", "banip", address)

    def unban(self, address: str) -> None:
        run("fail2ban-client", "set", "sshd", "unbanip", address)

    def reload(self) -> None:
        run("fail2ban-client", "reload")

    def stop(self) -> None:
        stop(self._process)


class Docker:
    """The engine, and a container of `hello` whose port 80 is published."""

    tables = ("ip nat", "ip filter")
    _socket = "unix:///run/docker.sock"

    def __init__(self, port: int) -> None:
        self._port = port

    def start(self) -> None:
        where = ("--data-root", "/run/docker-data", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid")
        self._process = spawn("dockerd", *where, "-H", self._socket, "--storage-driver", "vfs", "--live-restore")

    def up(self) -> bool:
        return succeeds("docker", "-H", self._socket, "version") and (self._running() or self._run())

    def _running(self) -> bool:
        return bool(run("docker", "-H", self._socket, "ps", "-q"))

    def _run(self) -> bool:
        if not succeeds("docker", "-H", self._socket, "image", "inspect", "hello"):
            run("sh", "-c", f"tar -C /run/image -c hello | docker -H {self._socket} import - hello")
        run("docker", "-H", self._socket, "run", "-d", "-p", f"{self._port}:80", "hello", "/hello", "80")
        return True

    def reload(self) -> None:
        """A restart: dockerd has no other way to write its rules again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        stop(self._process)


@contextmanager
def logs() -> Iterator[None]:
    """Prints what the programs said when something goes wrong."""
    try:
        yield
    except BaseException as error:
        for path in (Path("/var/log", name) for name in _PROGRAMS):
            if path.exists():
                error.add_note(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        raise
