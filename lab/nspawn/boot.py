"""Runs one machine until it powers off: mounts its root, starts systemd-nspawn, and starts it again when it reboots.

A script of its own, `python -S -E boot.py JSON`, because it changes its namespaces. JSON:
{"switch": PID, "cgroup": DIR, "name": NAME, "uuid": UUID, "lower": [DIR, ...], "upper": DIR, "work": DIR, "root": DIR,
 "pid": FILE}
"switch" is the process whose network and mounts it joins: the directories are as that one sees them. All mounts are its
own and end with it. The process id of systemd-nspawn is in "pid" while it runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
CLONE_NEWNET: Final = 0x40000000
MS_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8  # linux/mount.h
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
REBOOT: Final = 133
"""How systemd-nspawn --keep-unit ends when its machine reboots."""
CALLS: Final = "bpf perf_event_open fanotify_init fanotify_mark"
"""System calls that a server's root has and a container's has not."""

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    encoded = [text.encode() or None for text in (source, target, kind)]
    _check(libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), f"mount {source} on {target}")


def enter(spec: dict[str, Any]) -> None:
    """The switch's network, mounts of our own, the machine's cgroup."""
    handles = [
        (os.open(f"/proc/{spec['switch']}/ns/{name}", os.O_RDONLY), flag)
        for name, flag in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))
    ]
    Path(spec["cgroup"]).mkdir(exist_ok=True)
    (Path(spec["cgroup"]) / "cgroup.procs").write_text("0")
    for handle, flag in handles:
        _check(libc.setns(handle, flag), "setns")
        os.close(handle)
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    # The switch sees its own cgroups only; systemd-nspawn must see all, where a server's systemd has them.
    _check(libc.umount2(b"/sys/fs/cgroup", MNT_DETACH), "umount /sys/fs/cgroup")
    _mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID_NODEV_NOEXEC)
    options = f"lowerdir={':'.join(spec['lower'])},upperdir={spec['upper']},workdir={spec['work']}"
    _mount("overlay", spec["root"], "overlay", options=options)


def command(spec: dict[str, Any]) -> list[str]:
    return [
        "systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--console=pipe",
        f"--machine={spec['name']}", f"--uuid={spec['uuid']}", f"--directory={spec['root']}",
        "--private-network", "--network-bridge=br0", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
        "--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON,CAP_SYSLOG", f"--system-call-filter={CALLS}",
    ]  # fmt: skip


def unplug(name: str) -> None:
    """The port of the life before stays for minutes where a connection of the machine was not closed by the other
    end: the kernel goes on sending for a machine that is dead."""
    port = f"vb-{name}"[:15]
    if (Path("/sys/class/net") / port).exists():
        subprocess.run(["ip", "link", "delete", port], check=False)


def main() -> int:
    spec = json.loads(sys.argv[1])
    try:
        enter(spec)
        code, pid = REBOOT, Path(spec["pid"])
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        while code == REBOOT:
            unplug(spec["name"])
            with subprocess.Popen(command(spec), stdin=subprocess.DEVNULL, env=environment) as machine:
                pid.write_text(str(machine.pid))
                code = machine.wait()
            pid.unlink()
    except OSError as error:
        sys.stderr.write(f"lab: cannot run the machine {spec['name']}: {error}\n")
        return 126
    return code


if __name__ == "__main__":
    sys.exit(main())
