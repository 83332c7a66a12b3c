"""A ruleset as nft syntax (1.0.6): for people, to prove the builders in tests, and for `bytext`.

What was read from the kernel has no text for its rules; show what was rendered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from segctl_agent.nft.ruleset import TABLE, BaseHook, Chain, Counts, Data, KeyType, NftSet, Ruleset, SetSpec, Verdict

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
    yield f"\t{set_kind(spec)} {name} {{"
    yield from (f"\t\t{line}" for line in spec_lines(spec))
    loadable: list[str] = []
    for key, data in sorted(nft_set.elements.items(), key=lambda item: item[0]):
        if spec.key == (KeyType.CGROUPSV2,) and struct.unpack("=Q", key)[0] not in paths:
            yield f"\t\t# cgroup {struct.unpack('=Q', key)[0]}{data_text(data)}"
            continue
        loadable.append(key_text(spec, key, paths) + data_text(data))
    if loadable:
        yield "\t\telements = { " + ",\n\t\t\t     ".join(loadable) + " }"
    yield "\t}"


def set_kind(spec: SetSpec) -> str:
    return "map" if spec.verdicts or spec.counts else "set"


def spec_lines(spec: SetSpec) -> Iterator[str]:
    """What stands between the braces of a set's definition, without its elements."""
    holds = " : verdict" if spec.verdicts else " : counter" if spec.counts else ""
    yield f"type {' . '.join(k.nft for k in spec.key)}{holds}"
    if spec.size:
        yield f"size {spec.size}"
    if spec.interval:
        yield "flags interval"
    if spec.dynamic:
        yield "flags dynamic,timeout"
        yield f"timeout {spec.timeout_ms}ms"


def data_text(data: Data) -> str:
    """What follows the key of an element."""
    return f" : {data}" if isinstance(data, Verdict | Counts) else ""


def key_text(spec: SetSpec, key: bytes, paths: Mapping[int, str]) -> str:
    """KeyError for a cgroup that `paths` does not know."""
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
        yield f"\t\t{hook_text(chain.base)}"
    for rule in chain.rules:
        yield f"\t\t{rule.text or '# ' + ' '.join(e.name for e in rule.exprs)}"
    yield "\t}"


def hook_text(base: BaseHook) -> str:
    hook = _HOOKS.get(base.hook, str(base.hook))
    policy = "drop" if base.drop else "accept"
    return f"type {base.type} hook {hook} priority {base.priority}; policy {policy};"
