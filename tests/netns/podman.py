"""A host with rootful podman in namespaces of its own: real containers, netavark's bridge, NAT and published ports.

The image is one static program, made here: nothing is fetched. Podman's state lies on a file system of the space's own.
"""

from __future__ import annotations

import shutil
import tempfile

from tests.netns.spaces import Space, run

PODMAN = ("podman", "--log-level", "error", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
PRIVILEGED = ("--privileged", "--pids-limit", "0", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Tests may run where root must not raise its limits: crun needs that for a BPF program that tells devices apart."""
UNLOGGED = ("--log-driver", "none")
"""The journal of a machine with systemd is not in the space."""
_MOUNTS = """
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
mkdir -p /run/lock /run/etc-containers
cp -a /etc/containers/. /run/etc-containers
mount --bind /run/etc-containers /etc/containers
mkdir -p /var/lib/containers
mount -t tmpfs none /var/lib/containers
sysctl -qw net.ipv4.conf.all.rp_filter=0
"""


_PROGRAM = """
#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>
/* Accepts TCP connections on the ports that are given, and stays when there are none. */
int main(int count, char **ports) {
  for (int i = 1; i < count; i++) {
    if (fork()) continue;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(ports[i]))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 16)) return 1;
    for (;;) close(accept(listener, 0, 0));
  }
  for (;;) pause();
}
"""


class PodmanHost:
    """Commands run inside the space, so podman finds its network, mounts and cgroups there."""

    def __init__(self) -> None:
        missing = [name for name in ("podman", "crun", "gcc") if shutil.which(name) is None]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} not found: run tools/setup.sh")
        self.space = Space("podman")
        self.space.sh(_MOUNTS)
        with tempfile.TemporaryDirectory() as folder:
            run("gcc", "-static", "-o", f"{folder}/serve", "-x", "c", "-", stdin=_PROGRAM)
            self.space.sh(f"tar -C {folder} -c . | {' '.join(PODMAN)} import - box 2>&1")

    def podman(self, *command: str) -> str:
        return self.space.run(lambda: run(*PODMAN, *command))

    def close(self) -> None:
        self.podman("rm", "-f", "-a", "-t", "0")
        self.space.close()
