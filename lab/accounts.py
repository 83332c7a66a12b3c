"""The users of a lab host, and the files under /etc that make it look like a server of its own."""

from __future__ import annotations

from pathlib import Path

from lab.topology import Topology

ACCOUNTS: tuple[tuple[str, int], ...] = (
    ("root", 0),
    ("daemon", 1),
    ("www-data", 33),
    ("postgres", 110),
    ("segctl-agent", 980),
    ("segctl", 981),
    ("shop", 990),
    ("alice", 1000),
    ("nobody", 65534),
)


def uid(user: str) -> int:
    return dict(ACCOUNTS)[user]


def passwd() -> str:
    homes = {"root": "/root"}
    return "".join(f"{name}:x:{number}:{number}::{homes.get(name, '/')}:/bin/sh\n" for name, number in ACCOUNTS)


def group() -> str:
    return "".join(f"{name}:x:{number}:\n" for name, number in ACCOUNTS)


def hosts_file(topology: Topology) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{address} {host.name}" for host in topology.hosts for address in (host.v4, host.v6)]
    return "\n".join(lines) + "\n"


def write_etc(directory: Path, topology: Topology) -> dict[str, str]:
    """Write the files; returns where each belongs: {"/etc/passwd": path, ...}."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"passwd": passwd(), "group": group(), "hosts": hosts_file(topology)}
    for name, text in contents.items():
        (directory / name).write_text(text)
    return {f"/etc/{name}": str(directory / name) for name in contents}
