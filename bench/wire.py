"""A client and a server in two network namespaces, joined by a veth pair: one configuration under test."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.sandbox import NetworkNamespace, run_ip

SERVER = IPv4Address("192.168.77.1")
CLIENT = IPv4Address("192.168.77.2")
CLIENTS = IPv4Network("10.0.0.0/8")
"""Every address of it is the client's own: one process connects from as many addresses as a policy has entries."""
FIRST_CLIENT = IPv4Address("10.0.0.3")
CLIENT_STEP = 32
"""Client number i has the address FIRST_CLIENT + i * CLIENT_STEP: spread, so that no address compression helps."""

# Entries of closed connections must not pile up to nf_conntrack_max, which all namespaces share.
_SYSCTL = {
    "netfilter/nf_conntrack_tcp_timeout_close": "1",
    "netfilter/nf_conntrack_tcp_timeout_time_wait": "1",
    "netfilter/nf_conntrack_tcp_timeout_syn_sent": "2",
    "netfilter/nf_conntrack_tcp_timeout_syn_recv": "2",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/v0/rp_filter": "0",
    "ipv4/ip_local_port_range": "1024 65535",
}


def client_address(number: int) -> IPv4Address:
    """The address of client `number`; raises ValueError past the end of the network."""
    address = FIRST_CLIENT + number * CLIENT_STEP
    if address not in CLIENTS:
        raise ValueError(f"client {number} would be {address}, outside {CLIENTS}")
    return address


class Wire:
    """Use as a context manager; `client` and `server` are its namespaces."""

    def __init__(self) -> None:
        self.client = NetworkNamespace()
        self.server = NetworkNamespace()
        with self.client.entered():
            run_ip(
                f"link add v0 type veth peer name v0 netns {self.server.path}",
                f"addr add {CLIENT}/24 dev v0",
                "link set v0 up",
                f"route add local {CLIENTS} dev lo",
            )
            _set_sysctl()
        with self.server.entered():
            run_ip(f"addr add {SERVER}/24 dev v0", "link set v0 up", f"route add {CLIENTS} via {CLIENT}")
            _set_sysctl()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()
        self.server.close()


def _set_sysctl() -> None:
    for name, value in _SYSCTL.items():
        Path("/proc/sys/net", name).write_text(value)
