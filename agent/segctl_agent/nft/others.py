"""Reads the tables of others in this network namespace, as far as `foreign` wants to know them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from segctl.errors import KernelError

from segctl_agent.nft.attributes import attributes, text
from segctl_agent.nft.dump import parse_chain_hook, parse_expr
from segctl_agent.nft.foreign import FAMILIES, OtherRule, Snapshot, Where
from segctl_agent.nft.handover import STANDBY
from segctl_agent.nft.malformed import decoder
from segctl_agent.nft.messages import GETCHAIN, GETRULE
from segctl_agent.nft.netlink import DumpInterruptedError, Netlink
from segctl_agent.nft.ruleset import TABLE, BaseHook

MOST_RULES, MOST_PARSED = 50_000, 5_000
_ATTEMPTS = 5
_MATTERS = re.compile(
    rb"\0(?:notrack|queue|tproxy|flow_offload|fwd|ct|CONNMARK|CT|NOTRACK|NFQUEUE|TPROXY|FLOWOFFLOAD)\0"
)
"""Names of expressions and targets, as they stand in a dump: other rules are passed over unparsed."""
_LEGACY = ("ip_tables_names", "ip6_tables_names")


def read_others(most: int = MOST_RULES) -> Snapshot:
    """Raises KernelError. Costs about 3 us for a rule that does not matter; may be called in a thread."""
    for _ in range(_ATTEMPTS):
        # A socket of its own: a dump that is not taken to its end would block the next one.
        with Netlink(buffer=1 << 20) as netlink:
            try:
                return read_dumps(netlink, most)
            except (DumpInterruptedError, FileNotFoundError):
                continue
    raise KernelError("the tables of others change faster than they can be read: see `nft monitor`")


class Dumps(Protocol):
    """What is needed of Netlink."""

    def dump_families(self, command: int) -> Iterator[tuple[int, bytes]]: ...


@decoder("the tables of others")
def read_dumps(netlink: Dumps, most: int = MOST_RULES) -> Snapshot:
    """Raises as Netlink does, and KernelError for what does not decode."""
    bases: list[tuple[Where, BaseHook]] = []
    for family, message in netlink.dump_families(GETCHAIN):
        found = dict(attributes(message))
        hook = parse_chain_hook(found)
        where = _where(family, found, 3)
        if hook is not None and not _ours(where):
            bases.append((where, hook))
    rules: list[OtherRule] = []
    unread = False
    for number, (family, message) in enumerate(netlink.dump_families(GETRULE)):
        if number >= most or len(rules) >= MOST_PARSED:
            unread = True
            break
        if _MATTERS.search(message):
            found = dict(attributes(message))
            where = _where(family, found, 2)
            if not _ours(where):
                rules.append(OtherRule(where, tuple(parse_expr(e) for _, e in attributes(found.get(4, b"")))))
    return Snapshot(tuple(rules), tuple(bases), _legacy(), _ipvs(), unread)


def _where(family: int, found: dict[int, bytes], chain: int) -> Where:
    name = FAMILIES.get(family, str(family))
    return Where(name, text(found.get(1, b"")), text(found.get(chain, b"")))


def _ours(where: Where) -> bool:
    return where.family == "inet" and where.table in (TABLE, STANDBY)


def _legacy() -> tuple[str, ...]:
    """Tables of legacy iptables: the modules list them for this network namespace, to root."""
    out: list[str] = []
    for name in _LEGACY:
        try:
            words = Path("/proc/net", name).read_text().split()
        except OSError:
            continue
        out += [f"{'ip6' if '6' in name else 'ip'} {word}" for word in words]
    return tuple(out)


def _ipvs() -> bool:
    """Virtual services follow three lines of headings."""
    try:
        return len(Path("/proc/net/ip_vs").read_text().splitlines()) > 3
    except OSError:
        return False
