"""The kernel under an agent: what it can, and how full it is."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from segctl.doctor import Finding, ok, problem, unknown, warning
from segctl.errors import KernelError, StateError

from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.facts.cgroups import CgroupWatcher, find_cgroup2_root
from segctl_agent.facts.conntrack import FULL, Fill, read_fill
from segctl_agent.nft.netlink import Netlink

NEEDED, OWNS = (5, 12), (6, 9)
"""Linux versions: the oldest that serves, and from which on a table can be owned for good (docs/operations.md)."""
SHARE = 0.8
"""Of a limit: from there on it is told."""
_NET_ADMIN, _DAC_READ_SEARCH, _SYS_PTRACE = 12, 2, 19
CAPABILITIES = {"CAP_NET_ADMIN": _NET_ADMIN, "CAP_SYS_PTRACE": _SYS_PTRACE, "CAP_DAC_READ_SEARCH": _DAC_READ_SEARCH}
"""What the agent's unit gives it; numbers of linux/capability.h."""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """An empty `nftables` or `conntrack` means that it answers, else why not; None: it could not be asked.
    `destroys`: CONFIG_INET_DIAG_DESTROY; None: the kernel's configuration is not to be had."""

    release: str
    nftables: str | None
    conntrack: str | None
    destroys: bool | None


def capabilities(pid: int | str = "self") -> int:
    """CapEff of a process. Raises OSError."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1], 16) if found else 0


def may_ask() -> bool:
    """Whether this process may ask the kernel about nftables and connection tracking."""
    return bool(capabilities() >> _NET_ADMIN & 1)


def look() -> Iterator[Finding]:
    asked = may_ask()
    yield from judge_kernel(
        KernelFacts(
            os.uname().release,
            _nftables() if asked else None,
            _conntrack() if asked else None,
            _configured("CONFIG_INET_DIAG_DESTROY"),
        )
    )


def _nftables() -> str:
    try:
        with closing(Netlink()) as netlink:
            netlink.generation()
    except KernelError as error:
        return str(error)
    return ""


def _conntrack() -> str:
    try:
        with closing(ConntrackReader(max_rows=1).read()) as rows:  # type: ignore[type-var]  # a generator
            next(iter(rows), None)
    except KernelError as error:
        return str(error)
    return ""


def _configured(option: str) -> bool | None:
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        return re.search(rf"^{option}=[ym]$".encode(), text, re.MULTILINE) is not None
    return None


def judge_kernel(facts: KernelFacts) -> Iterator[Finding]:
    numbers = re.match(r"(\d+)\.(\d+)", facts.release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < NEEDED:
        yield problem(
            "kernel", f"Linux {facts.release} is older than {NEEDED[0]}.{NEEDED[1]}", "install a newer kernel"
        )
    elif version < OWNS:
        yield ok("kernel", f"Linux {facts.release}: others' changes of the table are undone (6.9 would refuse them)")
    else:
        yield ok("kernel", f"Linux {facts.release}: it can refuse others' changes of the table")
    if facts.nftables is None:
        yield unknown("nftables", "to ask the kernel needs CAP_NET_ADMIN", "run it as root")
    elif facts.nftables:
        yield problem("nftables", facts.nftables, "modprobe nf_tables; is CONFIG_NF_TABLES in this kernel?")
    else:
        yield ok("nftables", "the kernel answers")
    if facts.conntrack is None:
        yield unknown("conntrack", "to ask the kernel needs CAP_NET_ADMIN", "run it as root")
    elif facts.conntrack:
        yield warning("conntrack", f"flows are not seen: {facts.conntrack}", "modprobe nf_conntrack_netlink")
    else:
        yield ok("conntrack", "the connection table can be read")
    if facts.destroys is None:
        yield unknown(
            "inet-diag", "neither /proc/config.gz nor /boot/config-... says whether idle sessions can be ended"
        )
    elif not facts.destroys:
        text = "no CONFIG_INET_DIAG_DESTROY: an idle session whose permission ended goes on until its next packet"
        yield warning("inet-diag", text, "nothing to do, or a kernel with it")
    else:
        yield ok("inet-diag", "idle sessions can be ended")


def look_cgroups() -> Iterator[Finding]:
    try:
        root = find_cgroup2_root()
    except StateError as error:
        yield problem("cgroups", str(error), "boot with systemd.unified_cgroup_hierarchy=1")
        return
    limits = Path("/proc/sys/fs/inotify")
    watches = int((limits / "max_user_watches").read_text())
    yield from judge_cgroups(str(root), len(CgroupWatcher(root).scan()), watches)


def judge_cgroups(root: str, cgroups: int, watches: int) -> Iterator[Finding]:
    """The agent watches each cgroup with inotify; `watches` is the limit of its user."""
    if cgroups > SHARE * watches:
        yield (problem if cgroups >= watches else warning)(
            "cgroups",
            f"{cgroups} cgroups, and fs.inotify.max_user_watches is {watches}: beyond it new ones inside of units are "
            "not seen",
            f"sysctl -w fs.inotify.max_user_watches={max(4 * cgroups, 65536)}, and in /etc/sysctl.d",
        )
    else:
        yield ok("cgroups", f"cgroup v2 in {root}, {cgroups} cgroups; the limit of inotify is {watches}")


def look_fill() -> Iterator[Finding]:
    yield from judge_fill(read_fill())


def judge_fill(fill: Fill | None) -> Iterator[Finding]:
    if fill is None:
        yield unknown("conntrack-fill", "nf_conntrack is not loaded, or its counts cannot be read here")
    elif fill.share >= SHARE:
        text = (
            f"{fill.entries} of {fill.most} flows: when the table is full the kernel drops new connections of everybody"
        )
        then = f"sysctl -w net.netfilter.nf_conntrack_max={2 * fill.most}, or find who opens so many: conntrack -L"
        yield (problem if fill.share >= FULL else warning)("conntrack-fill", text, then)
    else:
        yield ok("conntrack-fill", f"{fill.entries} of {fill.most} flows")


def judge_capabilities(effective: int) -> Iterator[Finding]:
    """Of the running agent."""
    missing = [name for name, number in CAPABILITIES.items() if not effective >> number & 1]
    if "CAP_NET_ADMIN" in missing:
        text = f"the agent runs without {', '.join(missing)}: it cannot change rules"
        yield problem("capabilities", text, "systemctl cat segctl-agent; reinstall the unit, then restart it")
    elif missing:
        text = f"the agent runs without {', '.join(missing)}: it cannot always name the process of a denial"
        yield warning("capabilities", text, "systemctl cat segctl-agent; reinstall the unit, then restart it")
    else:
        yield ok("capabilities", "the agent has what it needs")
