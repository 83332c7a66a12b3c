"""A small table of its own that denies, and the agent's denial path beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from segctl_agent.denials.prefix import NFLOG_GROUP, encode

from tests.netns.spaces import in_namespaces, run
from tests.netns.station import Station

T = TypeVar("T")


def table(limit: str = "") -> None:
    """Port 7001 is denied outgoing, 7002 incoming, 7003 is outgoing test mode; 7004 is the business of another."""

    def log(prefix: str) -> str:
        return f'{limit} log prefix "{prefix}" group {NFLOG_GROUP} snaplen 96 queue-threshold 1'

    run(
        "nft",
        "-f",
        "-",
        stdin=f"""
table inet t {{
  counter out_web {{ }}
  counter in_db {{ }}
  chain deny_out {{
    {log(encode("out", "deny", "web"))}
    counter name out_web
    meta l4proto {{ tcp, udp }} reject with icmpx admin-prohibited
    drop
  }}
  chain deny_in {{
    {log(encode("in", "deny", "db"))}
    counter name in_db
    drop
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    th dport 7001 goto deny_out
    meta l4proto {{ icmp, sctp }} ip daddr 127.0.0.9 goto deny_out
    th dport 7003 {log(encode("out", "test", "web"))} accept
    th dport 7004 log prefix "fw: " group {NFLOG_GROUP} drop
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    th dport 7002 goto deny_in
  }}
}}
""",
    )


def counter(name: str) -> int:
    words = run("nft", "list", "counter", "inet", "t", name).split()
    return int(words[words.index("packets") + 1])


def on_station(body: Callable[[Station], Coroutine[Any, Any, T]], limit: str = "") -> T:
    async def main() -> T:
        station = Station()
        result = await body(station)
        station.close()
        return result

    def in_child() -> T:
        table(limit)
        return asyncio.run(main())

    return in_namespaces(in_child)
