"""Names of ICMP message types, as in `icmp/echo-request`.

Numbers: IANA "ICMP Parameters" (RFC 792, RFC 950) and "ICMPv6 Parameters" (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
A name that both families know stands for both.
"""

from __future__ import annotations

from types import MappingProxyType

ICMP_TYPES = MappingProxyType(
    {
        "echo-reply": 0,
        "destination-unreachable": 3,
        "redirect": 5,
        "echo-request": 8,
        "router-advertisement": 9,
        "router-solicitation": 10,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "timestamp-reply": 14,
        "address-mask-request": 17,
        "address-mask-reply": 18,
    }
)
ICMPV6_TYPES = MappingProxyType(
    {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "mld-listener-query": 130,
        "mld-listener-report": 131,
        "mld-listener-done": 132,
        "router-solicitation": 133,
        "router-advertisement": 134,
        "neighbour-solicitation": 135,
        "neighbour-advertisement": 136,
        "redirect": 137,
        "mld2-listener-report": 143,
    }
)
