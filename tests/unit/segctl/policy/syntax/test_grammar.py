from __future__ import annotations

from datetime import date
from ipaddress import ip_network

import pytest
from segctl.model.policy import PortRange, Process, ProcessKind
from segctl.policy.syntax.grammar import (
    ANY_PORTS,
    check_name,
    check_value,
    read_date,
    read_network,
    read_process,
    read_service,
    read_text,
)
from segctl.policy.syntax.log import Problem


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a.b_c", "x" * 40])
def test_names(name: str) -> None:
    assert check_name(name) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "x" * 41, "a/b", "ä", "a\n", "\u0661"])
def test_not_names(name: str) -> None:
    assert check_name(name) is not None


def test_values_may_be_longer_and_upper_case() -> None:
    assert check_value("Frankfurt-1") is None
    assert check_value("x" * 63) is None
    assert check_value("x" * 64) is not None


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("tcp/443", [PortRange("tcp", 443, 443)]),
        ("udp/8000-8100", [PortRange("udp", 8000, 8100)]),
        ("tcp/1-65535", [PortRange("tcp", 1, 65535)]),
        ("icmp", [PortRange("icmp", 0, 255), PortRange("icmpv6", 0, 255)]),
        ("icmpv6", [PortRange("icmpv6", 0, 255)]),
        ("icmp/echo-request", [PortRange("icmp", 8, 8), PortRange("icmpv6", 128, 128)]),
        ("icmpv6/echo-request", [PortRange("icmpv6", 128, 128)]),
        ("icmp/timestamp-request", [PortRange("icmp", 13, 13)]),
        ("icmp/packet-too-big", [PortRange("icmpv6", 2, 2)]),
        ("icmp/13", [PortRange("icmp", 13, 13)]),
        ("icmpv6/130", [PortRange("icmpv6", 130, 130)]),
        ("icmp/0-255", [PortRange("icmp", 0, 255)]),
    ],
)
def test_services(text: str, ports: list[PortRange]) -> None:
    assert read_service(text) == tuple(ports)


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/90-80", "tcp/-1", "tcp/1-", "tcp/1-2-3", "tcp/http", "TCP/1"),
        *("icmp/256", "icmp/", "icmp/nope", "icmpv6/timestamp-request", "sctp/1", "any", "tcp/ 1"),
        *("tcp/\u0663", "icmp/\u0663"),
    ],
)
def test_not_services(text: str) -> None:
    problem = read_service(text)
    assert isinstance(problem, Problem)
    assert problem.code == "bad-service"
    assert problem.hint


def test_any_is_every_protocol_and_port() -> None:
    assert [str(p) for p in ANY_PORTS] == ["icmp/0-255", "icmpv6/0-255", "tcp/0-65535", "udp/0-65535"]
    assert tuple(sorted(ANY_PORTS)) == ANY_PORTS


@pytest.mark.parametrize("text", ["192.0.2.7", "192.0.2.0/24", "2001:db8::/48", "::1", "0.0.0.0/0"])
def test_networks(text: str) -> None:
    assert read_network(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "code", "mend"),
    [
        ("10.0.0.1/24", "host-bits", "10.0.0.0/24"),
        ("2001:db8::1/48", "host-bits", "2001:db8::/48"),
        ("db.example.com", "dns-name", "addresses"),
        ("localhost", "dns-name", "addresses"),
        ("*.example.com", "dns-name", "addresses"),
        ("10.0.0.256", "bad-network", "192.0.2.7"),
        ("10.0.0.0/33", "bad-network", "192.0.2.7"),
        ("1.2.3", "bad-network", "192.0.2.7"),
        ("fe80::1%eth0", "bad-network", "%"),
        ("", "bad-network", "192.0.2.7"),
    ],
)
def test_not_networks(text: str, code: str, mend: str) -> None:
    problem = read_network(text)
    assert isinstance(problem, Problem)
    assert problem.code == code
    assert mend in problem.hint


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("unit", "nginx.service"),
        ("unit", "postgresql@*.service"),
        ("unit", "[ab]?.scope"),
        ("unit", "dev-disk\\x2d1.swap"),
        ("cgroup", "kubepods.slice/*/cri-?"),
        ("user", "www-data"),
        ("user", "0"),
        ("user", "4294967294"),
        ("executable", "/usr/bin/rsync"),
        ("executable", "/opt/a b/ü"),
        ("unit", "batch.slice"),
        ("unit", "system-postgresql.slice"),
        ("group", "adm"),
        ("group", "4"),
        ("container", "web*"),
        ("container", "k8s_web_*_shop"),
        ("container", "shop-[ab].1"),
    ],
)
def test_processes(kind: str, pattern: str) -> None:
    assert read_process(ProcessKind(kind), pattern) == Process(ProcessKind(kind), pattern)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("unit", "nginx"),
        ("unit", "-.slice"),
        ("unit", "a b.service"),
        ("unit", "a/b.service"),
        ("unit", "[ab.service"),
        ("unit", "x" * 260 + ".service"),
        ("cgroup", "/system.slice"),
        ("cgroup", "a/../b"),
        ("cgroup", "a//b"),
        ("cgroup", "a/"),
        ("cgroup", "a/**/b"),
        ("cgroup", "a/[b"),
        ("cgroup", ""),
        ("user", "www*"),
        ("user", "4294967295"),
        ("user", "-1"),
        ("user", "007"),
        ("executable", "rsync"),
        ("executable", "/"),
        ("executable", "/usr/bin/"),
        ("executable", "/usr//bin/rsync"),
        ("executable", "/usr/../bin/rsync"),
        ("executable", "/usr/bin/python*"),
        ("executable", "/usr/bin/a\nb"),
        ("container", "/web"),
        ("container", "a web"),
        ("container", "web[1"),
        ("container", ""),
        ("user", ""),
        ("group", "adm*"),
        ("group", "4294967295"),
    ],
)
def test_not_processes(kind: str, pattern: str) -> None:
    problem = read_process(ProcessKind(kind), pattern)
    assert isinstance(problem, Problem)
    assert problem.hint


def test_dates() -> None:
    assert read_date("2027-05-01") == date(2027, 5, 1)
    for text in ("2027-02-30", "20270501", "2027-W01-1", "1.5.2027", "", "٢٠٢٧-05-01"):
        assert isinstance(read_date(text), Problem)


def test_texts_become_one_printable_line() -> None:
    assert read_text(" two\n  words ", 20) == "two words"
    for text in ("", " \n", "x" * 21, "a\x1b[31m", "a\u202eb", "\ud800"):
        assert isinstance(read_text(text, 20), Problem)
