"""What names a container and its addresses: pure, from cgroup paths and from the texts of runtimes and of the kernel.

A path says "container" only where the system's own managers write: below slices that no user owns, or in the parents
that runtimes make in the root. What is named like a container inside of a unit, or below `user.slice`, is whatever its
owner wants it to be, and belongs to that unit or user. So do rootless containers: their network is a process of theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

from segctl_agent.facts.values import Address

Runtime = Literal["docker", "podman", "cri-o", "containerd", ""]
Network = IPv4Network | IPv6Network

_ID = r"[0-9a-f]{64}"
_PREFIXES: dict[str, Runtime] = {
    "docker": "docker",
    "libpod": "podman",
    "crio": "cri-o",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
}
_NAMED = re.compile(rf"({'|'.join(_PREFIXES)})-({_ID})(?:\.scope)?")
_BARE = re.compile(_ID)
_PARENTS = {"docker": 1, "libpod_parent": 1, "kubepods": 3}
"""Cgroups that runtimes and the kubelet make in the root when systemd is not their cgroup driver -> levels below."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
"""What docker and podman take for a name; 255 characters are enough for both."""
_BRIDGE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|podman[0-9]+|cni-podman[0-9]+|cni0|nerdctl[0-9]+")
"""Bridges as docker, podman (netavark, CNI), containerd and nerdctl name them. Others may be a router's business."""


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """A container by its cgroup; `runtime` is empty where the path does not tell it."""

    id: str
    runtime: Runtime
    cgroup: str


def container_of(path: str) -> ContainerRef | None:
    """The container that a cgroup (path below the root) is, or lies in; the outermost of nested ones."""
    parts = path.strip("/").split("/")
    level = next((i for i, part in enumerate(parts) if not part.endswith(".slice")), None)
    if level is None or parts[0] == "user.slice":
        return None
    named = _NAMED.fullmatch(parts[level])
    if named is not None:
        return ContainerRef(named[2], _PREFIXES[named[1]], "/".join(parts[: level + 1]))
    if level or parts[0] not in _PARENTS:
        return None
    for i in range(1, min(len(parts), _PARENTS[parts[0]] + 1)):
        named = _NAMED.fullmatch(parts[i])
        if named is not None or _BARE.fullmatch(parts[i]):
            runtime: Runtime = _PREFIXES[named[1]] if named else ("docker" if parts[0] == "docker" else "")
            return ContainerRef(named[2] if named else parts[i], runtime, "/".join(parts[: i + 1]))
    return None


def may_hold_containers(path: str) -> bool:
    """Whether containers may appear below this cgroup: a slice of the system, or a runtime's parent in the root."""
    parts = path.strip("/").split("/")
    if parts[0] == "user.slice" or container_of(path) is not None:
        return False
    return all(p.endswith(".slice") for p in parts) or len(parts) <= _PARENTS.get(parts[0], 0)


def is_container_bridge(interface: str) -> bool:
    return _BRIDGE.fullmatch(interface) is not None


def docker_name(text: bytes) -> str:
    """From config.v2.json. "" for a text that is none, or a name that no runtime would give."""
    value = _json(text)
    return _valid(value.get("Name")) if isinstance(value, dict) else ""


def storage_names(text: bytes) -> dict[str, str]:
    """id -> name from containers.json of containers/storage, which podman and CRI-O keep."""
    value = _json(text)
    found = {}
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and isinstance(entry.get("names"), list):
            name = _valid(next(iter(entry["names"]), ""))
            if name:
                found[entry["id"]] = name
    return found


def oci_name(text: bytes) -> str:
    """From the annotations of an OCI bundle's config.json: nerdctl's name, or the words of the CRI in the order in
    which cri-dockerd and CRI-O join them: k8s_CONTAINER_POD_NAMESPACE."""
    value = _json(text)
    notes = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(notes, dict):
        return ""
    if "nerdctl/name" in notes:
        return _valid(notes["nerdctl/name"])
    kind = "io.kubernetes.cri."
    container = "POD" if notes.get(f"{kind}container-type") == "sandbox" else notes.get(f"{kind}container-name")
    words = (container, notes.get(f"{kind}sandbox-name"), notes.get(f"{kind}sandbox-namespace"))
    if not all(isinstance(w, str) and w for w in words):
        return ""
    return _valid("k8s_" + "_".join(str(w) for w in words))


def _valid(name: object) -> str:
    """A name, or "". Of a pod's container the uid and the attempt are left out: they differ with every start."""
    text = name.removeprefix("/") if isinstance(name, str) else ""
    words = text.split("_")
    if words[0] == "k8s" and len(words) == 6:
        text = "_".join(words[:4])
    return text if _NAME.fullmatch(text) else ""


def _json(text: bytes) -> Any:  # noqa: ANN401 - whatever the file says
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: not JSON, or not UTF-8
        return None


def ipv4_addresses(fib_trie: str) -> frozenset[IPv4Address]:
    """The addresses that /proc/PID/net/fib_trie has as local to its network, loopback left out."""
    found = set()
    last = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "|--":
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.add(IPv4Address(last))
    return frozenset(a for a in found if not a.is_loopback)


def ipv6_addresses(if_inet6: str) -> frozenset[IPv6Address]:
    """The addresses of /proc/PID/net/if_inet6 with a scope beyond the link (the fourth column, in hexadecimal)."""
    rows = [line.split() for line in if_inet6.splitlines()]
    return frozenset(IPv6Address(bytes.fromhex(r[0])) for r in rows if len(r) == 6 and r[3] == "00")


_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200


def onlink_networks(route: str, ipv6_route: str, interfaces: Iterable[str]) -> tuple[Network, ...]:
    """The networks that these interfaces lead to without a gateway, from /proc/net/route and ipv6_route; never all
    addresses at once, and no link-local or multicast ones."""
    wanted = frozenset(interfaces)
    four = (line.split() for line in route.splitlines()[1:])
    six = (line.split() for line in ipv6_route.splitlines())
    found: list[Network] = [
        *(_ipv4(w[1], w[7]) for w in four if len(w) >= 8 and w[0] in wanted and _direct(w[3])),
        *(_ipv6(w[0], w[1]) for w in six if len(w) == 10 and w[9] in wanted and _direct(w[8])),
    ]
    return tuple(n for n in found if n.prefixlen and not n.is_link_local and not n.is_multicast)


def _ipv4(address: str, mask: str) -> IPv4Network:
    """Both as the kernel prints them: in hexadecimal, the first byte last."""
    first, bits = (int.from_bytes(bytes.fromhex(text), "little") for text in (address, mask))
    return IPv4Network((first, bits.bit_count()))


def _ipv6(address: str, length: str) -> IPv6Network:
    return IPv6Network((bytes.fromhex(address), int(length, 16)))


def _direct(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_GATEWAY | _RTF_REJECT) == _RTF_UP


def routed_here(addresses: Iterable[Address], networks: Sequence[Network]) -> tuple[Address, ...]:
    """Those of a container's addresses that this host would deliver to it, sorted. Who may configure the container's
    network may give it any address: one that lies elsewhere is no claim to it."""
    return tuple(sorted((a for a in addresses if any(a in n for n in networks)), key=lambda a: (a.version, a.packed)))
