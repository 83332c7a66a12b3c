"""The conntrack table of a namespace: read, filtered, one entry ended."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from segctl.errors import KernelError
from segctl_agent.conntrack.reader import ConntrackReader, Tally
from segctl_agent.conntrack.values import ConntrackRow

from tests.netns.spaces import in_namespaces, run

pytestmark = pytest.mark.kernel

MARKED = """
table inet tracked {
  chain nat {
    type nat hook output priority -100;
    tcp dport 8080 redirect to :80
  }
  chain out {
    type filter hook output priority 0;
    tcp dport 80 ct mark set 0x12300000
    udp dport 53 ct mark set 0x45600000
  }
}
"""
SYSCTL = Path("/proc/sys/net/netfilter")


def tracked(*, counting: bool = False) -> None:
    run("nft", "-f", "-", stdin=MARKED)
    for name in ("nf_conntrack_acct", "nf_conntrack_timestamp"):
        (SYSCTL / name).write_text("1" if counting else "0")


def table(reader: ConntrackReader | None = None) -> list[ConntrackRow]:
    return [row for rows in (reader or ConntrackReader()).read() for row in rows]


def of_port(port: int, rows: list[ConntrackRow]) -> ConntrackRow:
    (found,) = [r for r in rows if r.destination_port == port]
    return found


def test_both_families_every_protocol_and_nat_are_read():
    def body() -> dict[str, ConntrackRow]:
        tracked()
        kept = [socket.create_server(("127.0.0.1", 80)), socket.create_server(("::1", 81), family=socket.AF_INET6)]
        kept += [socket.create_connection(("127.0.0.1", 80)), socket.create_connection(("::1", 81))]
        kept.append(socket.create_connection(("127.0.0.1", 8080)))
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        datagram.sendto(b"?", ("127.0.0.1", 53))
        echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        echo.sendto(b"\x08\x00\xf7\xfd\x00\x01\x00\x01", ("127.0.0.1", 0))
        rows = table()
        return {
            "tcp": of_port(80, rows),
            "tcp6": of_port(81, rows),
            "nat": of_port(8080, rows),
            "udp": of_port(53, rows),
            "icmp": next(r for r in rows if r.protocol == 1),
        }

    found = in_namespaces(body)
    local = socket.inet_aton("127.0.0.1")
    assert found["tcp"][:3] == (6, local, local)
    assert (found["tcp"].mark, found["tcp"].tcp_state, found["tcp"].translated) == (0x12300000, 3, False)
    assert found["tcp6"].source == socket.inet_pton(socket.AF_INET6, "::1")
    assert (found["nat"].reply_source_port, found["nat"].translated) == (80, True)
    assert (found["udp"].protocol, found["udp"].mark, found["udp"].tcp_state) == (17, 0x45600000, 0)
    assert (found["icmp"].source_port, found["icmp"].destination_port, found["icmp"].translated) == (1, 8, False)
    assert all(r.id and r.timeout and r.original_bytes == r.started_ns == 0 for r in found.values())


def test_counters_and_the_beginning_are_read_where_the_kernel_keeps_them():
    def body() -> tuple[ConntrackRow, int]:
        tracked(counting=True)
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        datagram.sendto(b"x" * 100, ("127.0.0.1", 53))
        return of_port(53, table()), time.time_ns()

    row, now = in_namespaces(body)
    assert (row.original_packets, row.original_bytes, row.reply_bytes) == (1, 128, 0)
    assert 0 <= now - row.started_ns < 60e9


def test_the_kernel_picks_entries_by_mark():
    def body() -> list[int]:
        tracked()
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        for port in (53, 54, 55):
            datagram.sendto(b"?", ("127.0.0.1", port))
        rows = ConntrackReader().read(mark=0x45600000, mask=0xFFF00000)
        return [r.destination_port for some in rows for r in some]

    assert in_namespaces(body) == [53]


def test_this_very_entry_is_deleted_and_no_other():
    def body() -> tuple[list[bool], list[int], int]:
        tracked()
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        for port in (53, 54):
            datagram.sendto(b"?", ("127.0.0.1", port))
        echo = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        echo.sendto(b"\x80\x00\x00\x00\x00\x07\x00\x01", ("::1", 0))
        reader, rows = ConntrackReader(), table()
        first, ping = of_port(53, rows), next(r for r in rows if r.protocol == 58)
        answers = [
            reader.delete(first._replace(id=first.id ^ 1)),
            reader.delete(first),
            reader.delete(first),
            reader.delete(ping),
        ]
        return answers, [r.destination_port for r in table()], reader.count()

    assert in_namespaces(body) == ([False, True, False, True], [54], 1)


def test_a_large_table_comes_in_parts_and_within_the_bound():
    def body() -> tuple[Tally, Tally, int]:
        tracked()
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        for number in range(3000):
            datagram.sendto(b"?", (f"127.0.{number // 250}.{1 + number % 250}", 53))
        whole, part = Tally(), Tally()
        parts = list(ConntrackReader().read(whole))
        list(ConntrackReader(max_rows=1000).read(part))
        return whole, part, max(len(rows) for rows in parts)

    whole, part, largest = in_namespaces(body)
    assert whole == Tally(3000, 0, 0)
    assert part == Tally(1000, 2000, 0)
    assert largest < 1000


def test_without_the_capability_it_says_what_is_needed():
    program = (
        "import os; os.setuid(65534)\n"
        "from segctl_agent.conntrack.reader import ConntrackReader\n"
        "try: list(ConntrackReader().read())\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(KernelError.__name__)
    assert "CAP_NET_ADMIN" in done.stdout
