"""The grammar of single words: names, services, networks, process patterns, dates. Text in, value or problem out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import ip_address, ip_network

from segctl.model import units
from segctl.model.policy import Network, PortRange, Process, ProcessKind
from segctl.policy.syntax.icmp import ICMP_TYPES, ICMPV6_TYPES
from segctl.policy.syntax.log import Problem
from segctl.policy.syntax.suggest import quoted

MAX_NAME = 40
MAX_VALUE = 63
MAX_PATTERN = 255
MAX_OWNER = 100
MAX_WHY = 500
NAME_PATTERN = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
VALUE_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
DATE_PATTERN = r"\d{4}-\d{2}-\d{2}"
MOMENT_PATTERN = DATE_PATTERN + r"T\d{2}:\d{2}(:\d{2})?Z"
SERVICE_PATTERN = r"icmp|icmpv6|(tcp|udp)/\d{1,5}(-\d{1,5})?|(icmp|icmpv6)/(\d{1,3}(-\d{1,3})?|[a-z][a-z0-9-]*)"
UNIT_SUFFIXES = (*units.UNIT_SUFFIXES, units.SLICE)
ANY_SERVICE = "any"
ANY_PORTS = (
    PortRange("icmp", 0, 255),
    PortRange("icmpv6", 0, 255),
    PortRange("tcp", 0, 65535),
    PortRange("udp", 0, 65535),
)
"""What the reserved service `any` stands for, sorted as every `ports` is."""
RESERVED_SERVICES = frozenset({ANY_SERVICE, "icmp", "icmpv6", "tcp", "udp"})

_NAME = re.compile(NAME_PATTERN)
_VALUE = re.compile(VALUE_PATTERN)
_DATE = re.compile(DATE_PATTERN, re.ASCII)
_MOMENT = re.compile(MOMENT_PATTERN, re.ASCII)
_LAST_YEAR = 2199
"""Kernels count nanoseconds from 1970 in 63 bits, which end in 2262."""
_NUMBERS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@*?!\[\]-]+")
# systemd's relaxed rule for user names (systemd.io/USER_NAMES), without blanks and signs that shells obey.
_CONTAINER = re.compile(r"[A-Za-z0-9_.*?!\[\]-]+")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_UID = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)
_MAX_UID = 2**32 - 2
"""2**32-1 is (uid_t) -1, which stands for no user (chown(2))."""
_DNS_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_*-]+(\.[A-Za-z0-9_-]+)*\.?")
_MINUTE = "%Y-%m-%dT%H:%MZ"
_EXAMPLES = "write tcp/443, udp/8000-8100, icmp or icmp/echo-request"


def check_name(text: str) -> Problem | None:
    """Names of services, peers, workloads, rules, boundaries and tag keys."""
    return _check_word(text, _NAME, MAX_NAME, "a-z, 0-9 and . _ - inside")


def check_value(text: str) -> Problem | None:
    """Values of tags."""
    return _check_word(text, _VALUE, MAX_VALUE, "letters, digits and . _ - inside")


def _check_word(text: str, pattern: re.Pattern[str], limit: int, may: str) -> Problem | None:
    if len(text) <= limit and pattern.fullmatch(text):
        return None
    return Problem("bad-name", f"{quoted(text)} is not a name", f"use 1 to {limit} characters: {may}")


def read_service(text: str) -> tuple[PortRange, ...] | Problem:
    """A service literal: `tcp/443`, `udp/8000-8100`, `icmp`, `icmp/echo-request`, `icmpv6/130`. Sorted."""
    protocol, slash, rest = text.partition("/")
    match protocol:
        case "tcp" | "udp":
            if not slash:
                return Problem("bad-service", f"{protocol} needs a port", f"write {protocol}/443 or {protocol}/1-65535")
            numbers = _read_numbers(text, rest, 1, 65535)
            return numbers if isinstance(numbers, Problem) else (PortRange(protocol, *numbers),)
        case "icmp" | "icmpv6":
            return _read_icmp(text, protocol, rest if slash else None)
    return Problem("bad-service", f"{quoted(text)} is not a service", _EXAMPLES)


def _read_icmp(text: str, protocol: str, rest: str | None) -> tuple[PortRange, ...] | Problem:
    families: tuple[tuple[PortRange, dict[str, int]], ...]
    v4, v6 = PortRange("icmp", 0, 255), PortRange("icmpv6", 0, 255)
    if rest is None:
        return (v4, v6) if protocol == "icmp" else (v6,)
    if rest[:1].isdigit():
        numbers = _read_numbers(text, rest, 0, 255)
        if isinstance(numbers, Problem):
            return numbers
        return (PortRange("icmp" if protocol == "icmp" else "icmpv6", *numbers),)
    families = ((v6, dict(ICMPV6_TYPES)),)
    if protocol == "icmp":
        families = ((v4, dict(ICMP_TYPES)), *families)
    found = tuple(PortRange(f.protocol, names[rest], names[rest]) for f, names in families if rest in names)
    if found:
        return found
    known = sorted({name for _, names in families for name in names})
    return Problem("bad-service", f"{quoted(text)}: no such message type", f"use a number or one of {', '.join(known)}")


def _read_numbers(text: str, rest: str, low: int, high: int) -> tuple[int, int] | Problem:
    found = _NUMBERS.fullmatch(rest)
    if found is None:
        return Problem("bad-service", f"{quoted(text)} is not a service", _EXAMPLES)
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    if not (low <= first <= high and low <= last <= high):
        return Problem("bad-service", f"{quoted(text)} is out of range", f"numbers go from {low} to {high}")
    if first > last:
        return Problem("bad-service", f"{quoted(text)} runs backwards", f"write {last}-{first}")
    return first, last


def read_network(text: str) -> Network | Problem:
    """An address or a CIDR, IPv4 or IPv6, without host bits."""
    if "%" in text:
        return Problem("bad-network", f"{quoted(text)} has a zone", "write the address without %")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return _not_a_network(text)
    host = ip_address(text.partition("/")[0])
    message = f"{text} has host bits set"
    return Problem("host-bits", message, f"write {network} for the network, or {host} for the one address")


def _not_a_network(text: str) -> Problem:
    if _DNS_NAME.fullmatch(text) and not text.replace(".", "").isdigit():
        return Problem("dns-name", f"{quoted(text)}: DNS names are not supported yet", "give addresses or networks")
    return Problem("bad-network", f"{quoted(text)} is not an address", "write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48")


def network_order(network: Network) -> tuple[int, int, int]:
    """IPv4 before IPv6, then by address, the wider first."""
    return (network.version, int(network.network_address), network.prefixlen)


def sorted_networks(networks: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(sorted(set(networks), key=network_order))


def sorted_ports(ports: Iterable[PortRange]) -> tuple[PortRange, ...]:
    return tuple(sorted(set(ports)))


def read_process(kind: ProcessKind, pattern: str) -> Process | Problem:
    """A process pattern: a unit, cgroup path or container glob, a user, a group or the path of an executable."""
    if not 0 < len(pattern) <= MAX_PATTERN:
        return Problem("bad-process", f"a pattern has 1 to {MAX_PATTERN} characters", "shorten it")
    return _PROCESS_CHECKS[kind](pattern) or Process(kind, pattern)


def _check_unit(pattern: str) -> Problem | None:
    if not pattern.endswith(UNIT_SUFFIXES):
        mend = f"end it in {', '.join(UNIT_SUFFIXES)}: " + quoted(pattern.partition(".")[0][:40] + ".service")
        return Problem("bad-process", f"{quoted(pattern)} is not the name of a unit", mend)
    if not _UNIT.fullmatch(pattern):
        mend = "use letters, digits, : _ . \\ @ - and the globs * ? [..]"
        return Problem("bad-process", f"{quoted(pattern)} has characters that no unit has", mend)
    if pattern == "-.slice":
        mend = "select by tags alone: they name every process of a host"
        return Problem("bad-process", "-.slice holds every process there is", mend)
    return _check_brackets(pattern)


def _check_cgroup(pattern: str) -> Problem | None:
    segments = pattern.split("/")
    if pattern.startswith("/"):
        return Problem("bad-process", f"{quoted(pattern)} begins with a slash", f"write {quoted(pattern.lstrip('/'))}")
    if not pattern.isprintable() or any(s in ("", ".", "..") for s in segments):
        mend = "write the path below /sys/fs/cgroup: system.slice/shop.service"
        return Problem("bad-process", f"{quoted(pattern)} is not a cgroup path", mend)
    if any("**" in s for s in segments):
        mend = "a * matches within one segment, and everything below a match belongs to it"
        return Problem("bad-process", f"{quoted(pattern)}: ** is not a glob here", mend)
    return next((p for p in map(_check_brackets, segments) if p), None)


def _check_user(pattern: str) -> Problem | None:
    if _USER.fullmatch(pattern) or (_UID.fullmatch(pattern) and int(pattern) <= _MAX_UID):
        return None
    return Problem("bad-process", f"{quoted(pattern)} is not a user", "write a user name or a decimal uid, no glob")


def _check_group(pattern: str) -> Problem | None:
    if _check_user(pattern) is None:
        return None
    return Problem("bad-process", f"{quoted(pattern)} is not a group", "write a group name or a decimal gid, no glob")


def _check_container(pattern: str) -> Problem | None:
    if not _CONTAINER.fullmatch(pattern):
        mend = "use letters, digits, _ . - and the globs * ? [..], as `podman ps` and `docker ps` print names"
        return Problem("bad-process", f"{quoted(pattern)} has characters that no container's name has", mend)
    return _check_brackets(pattern)


def _check_brackets(pattern: str) -> Problem | None:
    """fnmatch reads an unclosed bracket as a literal one, which nobody means."""
    at = 0
    while (at := pattern.find("[", at)) >= 0:
        body = at + 2 if pattern[at + 1 : at + 2] == "!" else at + 1
        at = pattern.find("]", body + 1)
        if at < 0:
            return Problem("bad-process", f"{quoted(pattern)}: [ is not closed", "write [abc] or [a-z]")
    return None


def _check_executable(pattern: str) -> Problem | None:
    if not pattern.startswith("/"):
        return Problem("bad-process", f"{quoted(pattern)} is not an absolute path", "write it like /usr/bin/rsync")
    if set(pattern) & set("*?["):
        message = f"{quoted(pattern)} is a glob: files are marked one by one"
        return Problem("bad-process", message, "name one file; each one more is a workload of its own")
    if not pattern.isprintable() or any(part in ("", ".", "..") for part in pattern[1:].split("/")):
        return Problem("bad-process", f"{quoted(pattern)} is not the path of a file", "write it like /usr/bin/rsync")
    return None


_PROCESS_CHECKS: dict[ProcessKind, Callable[[str], Problem | None]] = {
    ProcessKind.UNIT: _check_unit,
    ProcessKind.CGROUP: _check_cgroup,
    ProcessKind.USER: _check_user,
    ProcessKind.GROUP: _check_group,
    ProcessKind.EXECUTABLE: _check_executable,
    ProcessKind.CONTAINER: _check_container,
}


def read_date(text: str) -> date | Problem:
    """A calendar day, YYYY-MM-DD (RFC 3339 full-date)."""
    if _DATE.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            return Problem("bad-date", f"{text} is not in the calendar", "check the month and the day")
    return Problem("bad-date", f"{quoted(text)} is not a date", "write YYYY-MM-DD")


def read_end(text: str) -> datetime | Problem:
    """The first moment (UTC) after a day, or after what lasts until a moment: `2027-01-31`, `2027-01-31T18:00Z`."""
    if _DATE.fullmatch(text):
        day = read_date(text)
        if isinstance(day, Problem):
            return day
        return _not_too_far(text, day.year) or datetime.combine(day, time(), UTC) + timedelta(days=1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"{quoted(text)} is neither a day nor a moment"
        return Problem("bad-date", message, "write 2027-01-31, or 2027-01-31T18:00Z in UTC")
    if moment.tzinfo is None:
        mend = f"write {moment.strftime(_MINUTE)}, the time in UTC"
        return Problem("bad-date", f"{quoted(text)} has no time zone", mend)
    far = _not_too_far(text, moment.year)
    if far or _MOMENT.fullmatch(text):
        return far or moment
    mend = f"write {moment.astimezone(UTC).strftime(_MINUTE)}"
    return Problem("bad-date", f"{quoted(text)} is not written in UTC to the minute or second", mend)


def _not_too_far(text: str, year: int) -> Problem | None:
    if 1 < year <= _LAST_YEAR:  # so that no time zone leads out of the calendar
        return None
    return Problem("bad-date", f"{text} is out of range", f"years go up to {_LAST_YEAR}; without it a rule has no end")


def read_text(text: str, limit: int) -> str | Problem:
    """One line of words: blanks and line breaks become single blanks."""
    words = " ".join(text.split())
    if not words:
        return Problem("bad-text", "an empty text", "say it in a few words")
    if len(words) > limit:
        return Problem("bad-text", f"a text of {len(words)} characters; the limit is {limit}", "shorten it")
    if not words.isprintable():
        return Problem("bad-text", f"{quoted(words)} has characters that do not show", "remove them")
    return words
