"""What was observed: flows summed between two ends, with when and from how many hosts they were seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from segctl.model.policy import Network, PortRange, Tags
from segctl.model.processes import name_of

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
MOST_DAYS = 56
"""Of a window: eight weeks, so that what runs once a month is seen twice."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time that was looked at, in bins: days of UTC, or hours where it is a day or less. `began_us` is when
    observing began, if that is later than `since_us`."""

    since_us: int
    until_us: int
    bin_us: int
    began_us: int = 0

    @classmethod
    def of(cls, since_us: int, until_us: int) -> Window:
        """Raises ValueError when it is empty, or longer than MOST_DAYS."""
        if not since_us < until_us <= since_us + MOST_DAYS * DAY_US:
            raise ValueError(f"a window ends after it begins, and at most {MOST_DAYS} days later")
        return cls(since_us, until_us, HOUR_US if until_us - since_us <= DAY_US else DAY_US)

    @property
    def observed_us(self) -> int:
        return self.until_us - max(self.since_us, self.began_us)

    @property
    def by_day(self) -> bool:
        return self.bin_us == DAY_US

    @property
    def bins(self) -> int:
        """For how many there was somebody to observe."""
        return max(1, round(self.observed_us / self.bin_us))

    def bin_of(self, moment_us: int) -> int:
        return max(0, moment_us // self.bin_us - self.since_us // self.bin_us)

    def __str__(self) -> str:
        since, until = (datetime.fromtimestamp(at / 1e6, UTC) for at in (self.since_us, self.until_us))
        return f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"


def ones(mask: int) -> tuple[int, ...]:
    """The numbers of the bits that are set."""
    return tuple(n for n in range(mask.bit_length()) if mask >> n & 1)


def first(mask: int) -> int:
    """The number of the first bit that is set; 0 where none is."""
    return max(0, (mask & -mask).bit_length() - 1)


@dataclass(frozen=True, slots=True)
class ObservedEnd:
    """One end of a flow: a process of the hosts with `tags`, or addresses of `network` where no enrolled host held it.

    `workload` is the declared workload it belonged to, `host` or empty where none; `process` its identity
    (segctl.model.processes), empty where nobody could tell. Hosts tell that: it is input, not truth.
    """

    tags: Tags | None = None
    workload: str = ""
    process: str = ""
    network: Network | None = None

    def __str__(self) -> str:
        if self.network is not None:
            single = self.network.prefixlen == self.network.max_prefixlen
            return str(self.network.network_address if single else self.network)
        who = self.workload if self.workload not in ("", "host") else name_of(self.process) or "a process not told"
        return f"{who} on {self.tags or 'hosts without tags'}"


@dataclass(frozen=True, slots=True)
class Observation:
    """Flows between two ends by one service. `service` is one port, or one message type. Times are Unix microseconds.

    `source_hosts` and `destination_hosts` are how many hosts, or addresses, took part; `bins` in which bins of the
    window they were seen. `denied` flows were dropped; the rest passed.
    """

    source: ObservedEnd
    destination: ObservedEnd
    service: PortRange
    flows: int
    first_us: int
    last_us: int
    bins: int
    source_hosts: int = 1
    destination_hosts: int = 1
    denied: int = 0

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} {self.service}"
