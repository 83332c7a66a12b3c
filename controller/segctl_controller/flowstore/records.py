"""The flow store's values. Times are Unix microseconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segctl_controller.flowstore.columns import FlowColumns

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
LARGEST_COUNT = 2**53
"""Counts stop here, also in sums: what a host says must not add up to a number that JSON or a float cannot tell."""
MAPPED = b"\0" * 10 + b"\xff\xff"
"""What stands before an IPv4 address in the 16 bytes of a remote (RFC 4291 2.5.5.2)."""


class FlowVerdict(IntEnum):
    """The numbers are those of the wire and of the database."""

    ALLOWED = 0
    WOULD_DENY = 1
    OBSERVED = 2


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """What the store keeps: minutes for `minute_hours`, then hours, until `days` are over or there are more than `rows`
    rows or `megabytes` on the disk."""

    rows: int = 20_000_000
    megabytes: int = 4096
    days: int = 30
    minute_hours: int = 24


@dataclass(frozen=True, slots=True)
class FlowReport:
    """What one report brought, with its place in the agent's sequence. `lost` flows are in no row."""

    host: str
    epoch: str
    sequence: int
    at_us: int
    columns: FlowColumns
    lost: int = 0


@dataclass(frozen=True, slots=True)
class FlowKey:
    """Flows that differ in none of these are one row. `remote` has 16 bytes, IPv4 as ::ffff:a.b.c.d; `protocol` is the
    IP protocol number, `port` the destination port or the ICMP type; `rule` is empty where none permitted it;
    `process` is the identity of that host's process (segctl.model.processes), empty where it is not known."""

    host: str
    workload: str
    ingress: bool
    remote: bytes
    protocol: int
    port: int
    rule: str
    verdict: FlowVerdict
    process: str = ""


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """Accepted flows of one key, summed over the time asked for. `peer` held the remote address when they were told;
    `peer_workload` is who listened there by that host's facts, as far as it is known."""

    key: FlowKey
    flows: int
    bytes_sent: int
    bytes_received: int
    first_us: int
    last_us: int
    peer: str = ""
    peer_workload: str = ""


EVERYWHERE = ((-(2**63), -(2**63)),)
"""One range with all addresses: see segctl_controller.flowstore.outside."""


@dataclass(frozen=True, slots=True)
class EndFilter:
    """One end of an edge: hosts that carry `tags` (an empty value: that have no such tag), and are called `host` or run
    `workload` or `process` where these are named, as far as they are known; with `outside`, addresses that no host
    held, of the ranges at `places` (None: all) and of `block` (first, last)."""

    tags: tuple[tuple[str, str], ...] = ()
    host: str = ""
    workload: str = ""
    process: str = ""
    outside: bool = False
    places: frozenset[int] | None = None
    block: tuple[bytes, bytes] | None = None

    def carried(self, tags: str) -> bool:
        """Whether hosts with these, as `key=value,key=value`, are meant."""
        own = dict(pair.split("=", 1) for pair in tags.split(",") if pair)
        return all(own.get(key, "") == value for key, value in self.tags)


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Empty fields: all. `process` is what somebody calls it (`segctl.model.processes.is_called`). `low` and `high`
    are the first and last address of a network, 16 bytes each. Only what was seen at `since_us` or later and at
    `until_us` or earlier (0: until now)."""

    limit: int = 100
    host: str = ""
    workload: str = ""
    rule: str = ""
    since_us: int = 0
    until_us: int = 0
    low: bytes = b""
    high: bytes = b""
    protocol: int | None = None
    port: int | None = None
    verdict: FlowVerdict | None = None
    process: str = ""
    source: EndFilter | None = None
    destination: EndFilter | None = None
    starts: tuple[tuple[int, int], ...] = EVERYWHERE


@dataclass(frozen=True, slots=True)
class FarEnd:
    """Asks which workload and process of `host` was the other end of a flow that was last seen at `last_us`: the row of
    that host in the other direction, about one of `remotes` (16 bytes each)."""

    host: str
    ingress: bool
    remotes: tuple[bytes, ...]
    protocol: int
    port: int
    last_us: int


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """The answer. Each is empty where that host told of none, or of several."""

    workload: str = ""
    process: str = ""


@dataclass(frozen=True, slots=True)
class Talker:
    """A workload with all that it took part in."""

    host: str
    workload: str
    flows: int
    bytes_sent: int
    bytes_received: int
    last_us: int


@dataclass(frozen=True, slots=True)
class MapFilter:
    """What a map is made of. Tags with other keys than `keys` do not count (None: all do). Addresses outside are told
    apart by the ranges that begin at `starts` (see segctl_controller.flowstore.outside), with `blocks` by their /24 or
    /48 too; with `hosts` each host is told for itself, with `processes` each process. Flows that began at `fresh_us` or
    later are counted by themselves, and with `span_us` by spans of that length (whole minutes)."""

    limit: int
    since_us: int = 0
    until_us: int = 0
    keys: Collection[str] | None = None
    starts: tuple[tuple[int, int], ...] = EVERYWHERE
    source: EndFilter | None = None
    destination: EndFilter | None = None
    protocol: int | None = None
    port: int | None = None
    hosts: bool = False
    processes: bool = False
    blocks: bool = False
    fresh_us: int = 0
    span_us: int = 0


@dataclass(frozen=True, slots=True)
class MapRow:
    """What the workload of hosts of one tag group told about another group. Tags are of the hosts, at the time of the
    flow, as `key=value,key=value`; `peer_tags` is None where no enrolled host held the address: `remote` is then the
    first of its range, and `block` of its block where those are told apart. `peer_workload` is who listened there, as
    far as it is known. `flows` holds `would_deny`, `observed` and `fresh`. `host`, `peer` and `process` are set where
    they are told apart; `peer_process` is for who knows it; `span_us` is the begin of the span (0: none). `was` is as
    in DraftRow."""

    tags: str
    workload: str
    ingress: bool
    peer_tags: str | None
    peer_workload: str
    remote: bytes
    protocol: int
    port: int
    flows: int
    would_deny: int = 0
    observed: int = 0
    fresh: int = 0
    octets: int = 0
    last_us: int = 0
    host: str = ""
    peer: str = ""
    block: bytes = b""
    span_us: int = 0
    process: str = ""
    peer_process: str = ""
    was: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """What processes of the hosts of one tag group told about another group, whose process is empty where it is not
    known. `flows` holds `would_deny` and `observed`."""

    tags: str
    peer_tags: str | None
    ingress: bool
    protocol: int
    port: int
    flows: int
    would_deny: int
    observed: int
    bytes_sent: int
    bytes_received: int
    last_us: int
    process: str = ""
    peer_process: str = ""


DAYS = 56
"""Bits of Observation.days: whole weeks, so that each bit has one day of the week."""


@dataclass(frozen=True, slots=True)
class ObservedEnd:
    """One end of what was observed. `tags` are those of its hosts at the time, None where no enrolled host held the
    address; `remote` (16 bytes) is then the lowest address, and `prefix` how many of its 128 bits all have in common:
    128 for one address, 120 for several of a /24 of IPv4, 64 for several of a /64 of IPv6. `workload` and `process` are
    empty where they are not known. `hosts`: how many hosts, or addresses, were this end."""

    tags: str | None
    workload: str = ""
    process: str = ""
    remote: bytes = b""
    prefix: int = 128
    hosts: int = 1


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen from one kind of end to another one, whichever of both told of it. `flows` began; those that were
    there before count as none. Of them `would_deny` and `observed` by the end where they were more.

    days: bit N is set for a day D (since 1970, UTC) with D % DAYS == N, so N % 7 is 0 on Thursdays. hours: bit N for
    the hour N of a day, UTC. Both tell when flows lived, not only when they began."""

    source: ObservedEnd
    destination: ObservedEnd
    protocol: int
    port: int
    flows: int
    would_deny: int
    observed: int
    first_us: int
    last_us: int
    days: int
    hours: int


@dataclass(frozen=True, slots=True)
class DraftRow:
    """Flows that a policy judges alike: one local workload and tag group, and a peer's tag group, or its address (16
    bytes) where no enrolled host held it. `host` and `peer` are one of the hosts, as an example. `was` is the workload
    by the policy before, where that is another one."""

    tags: str
    workload: str
    ingress: bool
    peer_tags: str | None
    remote: bytes
    protocol: int
    port: int
    flows: int
    last_us: int
    host: str
    peer: str
    was: str | None = None


@dataclass(frozen=True, slots=True)
class KindRow:
    """Flows that a policy judges alike, and when they came. `flows` are those since each of the marks asked for; bit N
    of `days` is the Nth day (UTC) from the one of `since_us` on. `process` is of one of them, as an example."""

    row: DraftRow
    flows: tuple[int, ...]
    days: int
    process: str = ""


@dataclass(frozen=True, slots=True)
class UseRow:
    """What a rule permitted between hosts of two tag groups, told by one of its ends: see MapRow. `peer_workload` is
    empty where the end that told could not know it."""

    rule: str
    tags: str
    workload: str
    ingress: bool
    peer_tags: str | None
    peer_workload: str
    protocol: int
    port: int
    flows: int


@dataclass(frozen=True, slots=True)
class FlowSize:
    """`bytes` on the disk."""

    rows: int
    bytes: int
