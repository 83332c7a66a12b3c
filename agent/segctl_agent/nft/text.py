"""A ruleset as nft syntax (1.0.6): for people, and to prove the builders in tests.

What was read from the kernel has no text for its rules; show what was rendered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from segctl_agent.nft.ruleset import TABLE, BaseHook, Chain, Counts, Data, KeyType, NftSet, Ruleset, Verdict

_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}


def to_text(ruleset: Ruleset, paths: Mapping[int, str] | None = None, table: str = TABLE) -> str:
    """The table in nft syntax. `paths` maps cgroup ids to paths below the cgroup root; an id without a path prints as
    a number in a comment, because nft loads paths only."""
    names = paths or {}
    lines = [f"table inet {table} {{"]
    for name in sorted(ruleset.counters):
        lines += [f"\tcounter {name} {{", "\t}", ""]
    for name, nft_set in sorted(ruleset.sets.items()):
        lines += [*_set_lines(name, nft_set, names), ""]
    for name, chain in sorted(ruleset.chains.items(), key=lambda c: (c[1].base is not None, c[0])):
        lines += [*_chain_lines(name, chain), ""]
    if lines[-1] == "":
        lines.pop()
    return "\n".join([*lines, "}"]) + "\n"


def _set_lines(name: str, nft_set: NftSet, paths: Mapping[int, str]) -> Iterator[str]:
    spec = nft_set.spec
    holds = " : verdict" if spec.verdicts else " : counter" if spec.counts else ""
    yield f"\t{'map' if holds else 'set'} {name} {{"
    yield f"\t\ttype {' . '.join(k.nft for k in spec.key)}{holds}"
    if spec.size:
        yield f"\t\tsize {spec.size}"
    if spec.interval:
        yield "\t\tflags interval"
    if spec.dynamic:
        yield "\t\tflags dynamic,timeout"
        yield f"\t\ttimeout {spec.timeout_ms}ms"
    loadable: list[str] = []
    for key, data in sorted(nft_set.elements.items(), key=lambda item: item[0]):
        if spec.key == (KeyType.CGROUPSV2,) and struct.unpack("=Q", key)[0] not in paths:
            yield f"\t\t# cgroup {struct.unpack('=Q', key)[0]}{_data(data)}"
            continue
        loadable.append(_element(nft_set, key, paths) + _data(data))
    if loadable:
        yield "\t\telements = { " + ",\n\t\t\t     ".join(loadable) + " }"
    yield "\t}"


def _data(data: Data) -> str:
    return f" : {data}" if isinstance(data, Verdict | Counts) else ""


def _element(nft_set: NftSet, key: bytes, paths: Mapping[int, str]) -> str:
    spec = nft_set.spec
    if not key:
        return "*"
    if spec.interval:
        first, last = key[: spec.key_length], key[spec.key_length :]
        low, high = _value(spec.key[0], first, paths), _value(spec.key[0], last, paths)
        return low if first == last else f"{low}-{high}"
    parts = []
    for kind in spec.key:
        parts.append(_value(kind, key[: kind.length], paths))
        key = key[(kind.length + 3) & ~3 :]
    return " . ".join(parts)


def _value(kind: KeyType, data: bytes, paths: Mapping[int, str]) -> str:
    match kind:
        case KeyType.IPV4_ADDR:
            return str(IPv4Address(data))
        case KeyType.IPV6_ADDR:
            return str(IPv6Address(data))
        case KeyType.INET_PROTO:
            return _PROTOCOLS.get(data[0], str(data[0]))
        case KeyType.INET_SERVICE:
            return str(int.from_bytes(data, "big"))
        case KeyType.MARK:
            return f"{struct.unpack('=I', data)[0]:#010x}"
        case KeyType.UID | KeyType.GID:
            return str(struct.unpack("=I", data)[0])
        case KeyType.CGROUPSV2:
            return f'"{paths[struct.unpack("=Q", data)[0]]}"'


def _chain_lines(name: str, chain: Chain) -> Iterator[str]:
    yield f"\tchain {name} {{"
    if chain.base is not None:
        yield f"\t\t{_hook(chain.base)}"
    for rule in chain.rules:
        yield f"\t\t{rule.text or '# ' + ' '.join(e.name for e in rule.exprs)}"
    yield "\t}"


def _hook(base: BaseHook) -> str:
    hook = _HOOKS.get(base.hook, str(base.hook))
    policy = "drop" if base.drop else "accept"
    return f"type {base.type} hook {hook} priority {base.priority}; policy {policy};"
