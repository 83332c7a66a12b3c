"""What `segctl map` asks for, and how an end of an edge is written on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network

ANY_PEER = "any"
DETAILS = ("network", "host", "workload", "process")
NAMED = ("peer", "host", "workload", "process")


@dataclass(frozen=True, slots=True)
class EndWanted:
    """Whoever has all of it; empty fields do not matter. With `outside`, addresses that no host holds, of `peer`
    (ANY_PEER: of all and none)."""

    tags: Mapping[str, str] = field(default_factory=dict)
    outside: bool = False
    peer: str = ""
    network: str = ""
    host: str = ""
    workload: str = ""
    process: str = ""


@dataclass(frozen=True, slots=True)
class MapWanted:
    """`at` and `generation` (0: none) name the policy to judge by; else it is the one in force."""

    limit: int
    since: datetime | None
    until: datetime | None = None
    by: tuple[str, ...] = ()
    at: datetime | None = None
    generation: int = 0
    source: EndWanted | None = None
    destination: EndWanted | None = None
    protocol: str = ""
    port: int | None = None
    detail: str = ""


def parse_end(text: str) -> EndWanted:
    """`env=prod,role=web`, `host:web1`, `outside`, `peer:office`, `203.0.113.0/24`, and what of it fits together.
    Raises ValueError with what is wrong."""
    tags: dict[str, str] = {}
    named: dict[str, str] = {}
    outside, network = False, ""
    for word in (word for word in text.replace(" ", "").split(",") if word):
        kind, colon, name = word.partition(":")
        if word == "outside":
            outside = True
        elif colon and kind in NAMED and name:
            named[kind] = name
        elif "=" in word:
            key, _, value = word.partition("=")
            tags[key] = value
        else:
            network = _network(word)
    if outside or network:
        named.setdefault("peer", ANY_PEER)
    outside = outside or bool(network) or "peer" in named
    if outside and (tags or {"host", "workload", "process"} & named.keys()):
        raise ValueError(f"{text!r} is hosts and addresses outside at once: no end is both")
    return EndWanted(tags, outside, network=network, **named)


def _network(word: str) -> str:
    try:
        return str(ip_network(word, strict=False))
    except ValueError as error:
        raise ValueError(
            f"{word!r} is no end: write KEY=VALUE, host:NAME, workload:NAME, process:NAME, outside, peer:NAME or a "
            "network such as 203.0.113.0/24"
        ) from error
