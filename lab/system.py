"""What the machine must have for the lab and for segctl: each thing is tried for real, each has its mend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lab.host import REPOSITORY
from lab.instance import LabError, cgroup_mount

RULES = """
table inet segctl-check {
  map live { type mark : verdict; }
  chain known { accept; }
  chain input {
    type filter hook input priority filter; policy drop;
    ct mark vmap @live
    ct state established,related accept
    socket cgroupv2 level 1 "CGROUP" goto known
    limit rate 10/second log prefix "segctl check" group 1510 queue-threshold 1
    meta l4proto tcp reject with tcp reset
  }
}
"""
"""What the agent's table is built from: nft 1.0.6 refuses the whole file when the kernel lacks any of it."""


def _root() -> str:
    return "" if os.geteuid() == 0 else "run as root: namespaces, cgroups and nftables need it (`sudo make ...`)"


def _programs() -> str:
    missing = [name for name in ("nft", "ip", "setpriv") if shutil.which(name) is None]
    return f"{', '.join(missing)} not found: apt-get install nftables iproute2 util-linux" if missing else ""


def _readable() -> str:
    """The lab's ordinary users run our programs from a bind mount of the repository: what is above does not count."""
    closed = [path for path in (REPOSITORY, REPOSITORY / "lab" / "programs.py", Path(sys.prefix)) if not _for_all(path)]
    return f"{closed[0]} is closed to ordinary users: chmod -R go+rX {REPOSITORY}" if closed else ""


def _for_all(path: Path) -> bool:
    wanted = 0o005 if path.is_dir() else 0o004
    return path.stat().st_mode & wanted == wanted


def _cgroups() -> str:
    try:
        mount = cgroup_mount()
    except LabError as error:
        return str(error)
    kill = "needs a kernel of 5.14 or later: no cgroup.kill"
    probe = mount / f"segctl-check-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError as error:
        return f"cannot make a cgroup in {mount}: {error.strerror}; in a container, run it privileged"
    try:
        return "" if (probe / "cgroup.kill").exists() else kill
    finally:
        probe.rmdir()


def _in_namespaces(script: str, stdin: str = "") -> str:
    """Run a shell script in fresh network, mount and cgroup namespaces; returns its complaint, or nothing."""
    command = ["unshare", "--net", "--mount", "--cgroup", "--uts", "--ipc", "sh", "-ec", script]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def _namespaces() -> str:
    script = "mount --make-rprivate / && mount -t sysfs none /sys && mount -t cgroup2 none /sys/fs/cgroup"
    complaint = _in_namespaces(script)
    return f"namespaces or mounts are refused: {complaint}; in a container, run it privileged" if complaint else ""


def _nftables() -> str:
    name = f"segctl-check-{os.getpid()}"
    script = f"""
    mount --make-rprivate /; mount -t sysfs none /sys; mount -t cgroup2 none /sys/fs/cgroup
    mkdir /sys/fs/cgroup/{name}
    trap 'rmdir /sys/fs/cgroup/{name}' EXIT
    nft -f -
    """
    complaint = _in_namespaces(script, RULES.replace("CGROUP", name))
    return f"the kernel's nftables lacks what the agent needs: {complaint}" if complaint else ""


def _bridge() -> str:
    complaint = _in_namespaces(
        "ip link add br0 type bridge; ip link add veth0 type veth peer name veth1; ip link set veth0 master br0"
    )
    return f"no bridge or veth devices: {complaint}; modprobe bridge veth" if complaint else ""


def _ipv6() -> str:
    return "" if Path("/proc/net/if_inet6").exists() else "IPv6 is off in this kernel: boot without ipv6.disable=1"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("root", _root),
    ("programs", _programs),
    ("this checkout", _readable),
    ("IPv6", _ipv6),
    ("cgroup v2", _cgroups),
    ("namespaces", _namespaces),
    ("bridge and veth", _bridge),
    ("nftables with sockets, conntrack marks and NFLOG", _nftables),
)


def check_system() -> list[str]:
    """What is wrong with this machine, one sentence each; empty when everything is there."""
    problems = []
    for name, check in CHECKS:
        complaint = check()
        if complaint:
            problems.append(f"{name}: {complaint}")
            if check is _root:
                break  # nothing else can be tried
    return problems


def main() -> int:
    problems = check_system()
    for problem in problems:
        print(f"segctl: this machine cannot run the lab: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
