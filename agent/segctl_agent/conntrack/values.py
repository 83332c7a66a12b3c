"""One entry of the conntrack table."""

from __future__ import annotations

from typing import Final, NamedTuple

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58

IPS_ASSURED: Final = 1 << 2
"""enum ip_conntrack_status of linux/netfilter/nf_conntrack_common.h. Of TCP: a connection was established."""

# enum tcp_conntrack of linux/netfilter/nf_conntrack_tcp.h
TCP_LAST_ACK: Final = 6
TCP_TIME_WAIT: Final = 7
TCP_CLOSE: Final = 8
TCP_OVER: Final = frozenset({TCP_LAST_ACK, TCP_TIME_WAIT, TCP_CLOSE})
"""The connection has ended; the entry outlives it by its timeout."""


class ConntrackRow(NamedTuple):
    """Addresses are 4 or 16 bytes in network order. The original tuple is that of the first packet as it left its
    sender; the reply tuple is what an answer bears as it comes in, so under NAT the two are not mirror images. For
    ICMP the source port is the identifier and the destination port the message type. What the kernel does not tell is
    0: counters need nf_conntrack_acct, the start needs nf_conntrack_timestamp. `tcp_state`: enum tcp_conntrack.
    """

    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    code: int
    """Of an ICMP message."""
    reply_source: bytes
    reply_destination: bytes
    reply_source_port: int
    reply_destination_port: int
    zone: int
    status: int
    """IPS_* of linux/netfilter/nf_conntrack_common.h."""
    mark: int
    id: int
    timeout: int
    """Seconds until the kernel forgets the entry."""
    tcp_state: int
    original_packets: int
    original_bytes: int
    reply_packets: int
    reply_bytes: int
    started_ns: int
    """Unix time."""

    @property
    def translated(self) -> bool:
        """NAT changed an address or a port."""
        if self.source != self.reply_destination or self.destination != self.reply_source:
            return True
        if self.protocol in (ICMP, ICMPV6):
            return False  # an answer has another message type
        return self.source_port != self.reply_destination_port or self.destination_port != self.reply_source_port
