"""The connection under a session: mutual TLS, options, and how long to wait before the next one."""

from __future__ import annotations

import random
from collections.abc import Callable

import grpc

from segctl_agent.credentials import Identity

# A frozen controller is noticed after 6 s; without the ping timeout, keepalive alone took 63 s (measured).
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 8 << 20),
    # Else the controller answers a ping, which measures the way to it, for every message that it sends.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    # Another address is another subchannel; our own backoff decides, so gRPC's must not add to it.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(identity: Identity, address: str) -> grpc.aio.Channel:
    """To a controller at HOST:PORT that shows a certificate of the fleet's CA; it sees who we are."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.ca, private_key=identity.key, certificate_chain=identity.certificate
    )
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def explained(details: str) -> str:
    """What gRPC says of a connection that failed, and what it means where that is for people to mend."""
    if "CERTIFICATE_VERIFY_FAILED" not in details:
        return details
    return (
        f"{details}. This host does not trust the CA of that certificate: it is another controller, or the fleet's CA "
        "was retired while this host was away. Then enrol it again: `segctl token create --host NAME --replace`, then "
        "`segctl-agent enrol --replace`"
    )


STEADY_SECONDS = 30.0


class Backoff:
    """Exponential with jitter, in seconds: a fleet must not come back in one moment."""

    def __init__(self, first: float = 0.2, most: float = 10.0, chance: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._chance = first, most, chance
        self._failures = 0

    def next(self, *, elsewhere: bool = False) -> float:
        """`elsewhere`: the next attempt is at another controller. After a steady session it is made at once, or nearly:
        the one before is gone, and there is no reason to wait for this one."""
        if elsewhere and not self._failures:
            self._failures = 1
            return self._first * self._chance()
        ceiling = min(self._most, self._first * float(1 << min(self._failures, 16)))
        self._failures += 1
        return max(self._first, ceiling * (0.5 + self._chance() / 2))

    def lasted(self, seconds: float) -> None:
        """A session ended after `seconds`. Only a steady one starts anew: two agents with one identity end each
        other's sessions, and must not do so several times a second."""
        if seconds >= STEADY_SECONDS:
            self._failures = 0
