"""Make, hold and enter the namespaces of a lab host.

A script of its own, started as `python -S -E ns.py hold|enter JSON [-- COMMAND...]`: it runs for every process the lab
starts, so it imports nothing but the standard library, and a fresh process is the only safe place to unshare in.

hold:  {"cgroup": DIR, "hostname": NAME, "binds": [[SOURCE, TARGET], ...], "sysctls": {KEY: VALUE}}
       makes the host, writes "ready" to standard output, and stays.
enter: {"pid": HOLDER, "cgroup": DIR, "user": NAME}
       joins the cgroup, then the namespaces, and executes COMMAND. "cgroup" is the path as the machine sees it and is
       made when missing.
Source of the numbers: linux/sched.h, linux/mount.h.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import sys
from typing import Any, Final

NAMESPACES: Final = {"cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000, "mnt": 0x00020000}
MS_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    encoded = [text.encode() or None for text in (source, target, kind)]
    _check(libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), f"mount {source} on {target}")


def _join_cgroup(directory: str) -> None:
    with open(f"{directory}/cgroup.procs", "w") as procs:  # noqa: PTH123 - pathlib doubles this script's start-up time
        procs.write("0")


def hold(spec: dict[str, Any]) -> None:
    os.setsid()
    _join_cgroup(spec["cgroup"])
    flags = 0
    for flag in NAMESPACES.values():
        flags |= flag
    _check(libc.unshare(flags), "unshare")  # the cgroup namespace is rooted where this process is now
    _join_cgroup(f"{spec['cgroup']}/init.scope")
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    _mount("sysfs", "/sys", "sysfs", MS_NOSUID_NODEV_NOEXEC)  # /sys/class/net of the new network namespace
    _mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID_NODEV_NOEXEC)
    for source, target in spec["binds"]:
        _mount(source, target, flags=MS_BIND | MS_REC)
    name = spec["hostname"].encode()
    _check(libc.sethostname(name, len(name)), "sethostname")
    for key, value in spec["sysctls"].items():
        with open(f"/proc/sys/{key}", "w") as file:  # noqa: PTH123
            file.write(value)
    os.chdir("/")
    os.write(1, b"ready\n")
    os.execv("/bin/sleep", [f"segctl-lab-{spec['hostname']}", "infinity"])


def enter(spec: dict[str, Any], command: list[str]) -> None:
    here = os.getcwd()  # noqa: PTH109
    handles = [(os.open(f"/proc/{spec['pid']}/ns/{name}", os.O_RDONLY), flag) for name, flag in NAMESPACES.items()]
    os.makedirs(spec["cgroup"], exist_ok=True)  # noqa: PTH103
    _join_cgroup(spec["cgroup"])
    for handle, flag in handles:
        _check(libc.setns(handle, flag), "setns")
        os.close(handle)
    try:
        os.chdir(here)
    except OSError:
        os.chdir("/")
    if spec["user"] != "root":
        account = pwd.getpwnam(spec["user"])  # of the host's own /etc/passwd
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
    os.execvp(command[0], command)


def main() -> None:
    action, spec, command = sys.argv[1], json.loads(sys.argv[2]), sys.argv[4:]
    try:
        if action == "hold":
            hold(spec)
        else:
            enter(spec, command)
    except (OSError, KeyError) as error:
        sys.stderr.write(f"lab: cannot {action} {' '.join(command) or spec.get('hostname', '')}: {error}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
