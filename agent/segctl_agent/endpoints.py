"""Where the controllers are: names to addresses, remembered for a boot without a name service."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

from segctl_agent.durable import write_durably
from segctl_agent.facts.values import Endpoint

Resolve = Callable[[str], Iterable[str]]
FILE = "endpoints.json"
MAX_ADDRESSES = 16
"""Of one name: each is a rule in the base chains, and a hostile name service may answer with thousands."""


def look_up(host: str) -> list[str]:
    """The addresses of a host name, by this host's name service. Blocks: call it in a thread. Empty when unknown."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(info[4][0]).partition("%")[0] for info in found})


def resolve_endpoints(
    controllers: Iterable[str], remembered: dict[str, list[str]], resolve: Resolve
) -> dict[str, list[str]]:
    """HOST:PORT -> addresses. What does not resolve now keeps the addresses it had: a name service that is down must
    not close the channel to the controller."""
    found: dict[str, list[str]] = {}
    for controller in controllers:
        host = controller.rpartition(":")[0].strip("[]")
        now = [host] if _is_address(host) else list(resolve(host))[:MAX_ADDRESSES]
        found[controller] = now or remembered.get(controller, [])
    return found


def endpoints(resolved: dict[str, list[str]]) -> tuple[Endpoint, ...]:
    out = {
        Endpoint(ip_address(address), int(controller.rpartition(":")[2]))
        for controller, addresses in resolved.items()
        for address in addresses
        if _is_address(address)
    }
    return tuple(sorted(out, key=lambda e: (e.address.version, e.address, e.port)))


def describe(resolved: dict[str, list[str]]) -> str:
    """For people: "ctl:7443 (192.0.2.1, 2001:db8::1)"; a name without addresses says so."""
    return "; ".join(f"{name} ({', '.join(addresses) or 'unknown'})" for name, addresses in resolved.items())


def load_remembered(state: Path) -> dict[str, list[str]]:
    """Empty when there is nothing to read: the addresses are found again as soon as names resolve."""
    try:
        found = json.loads((state / FILE).read_bytes())
        return {str(k): [str(a) for a in v] for k, v in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(state: Path, resolved: dict[str, list[str]]) -> None:
    """Raises OSError."""
    write_durably(state / FILE, json.dumps(resolved, indent=2).encode() + b"\n")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
