"""The digest of a table. What did not change since the last call is not hashed again."""

from __future__ import annotations

import hashlib

from segctl_agent.nft.keys import Keys
from segctl_agent.nft.ruleset import Chain, KeyType, NftSet, Ruleset


class RulesetDigest:
    """`of` gives the hex sha256 of the canonical content. The ids of cgroups are left out: they are facts of a host and
    a boot. Values are immutable, so an object that is the same one as before has the same digest."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Chain | NftSet, bytes]] = {}

    def of(self, ruleset: Ruleset) -> str:
        known: dict[str, tuple[Chain | NftSet, bytes]] = {}
        digest = hashlib.sha256()
        parts: list[tuple[str, Chain | NftSet]] = [(f"chain {n}", c) for n, c in sorted(ruleset.chains.items())]
        parts += [(f"set {n}", s) for n, s in sorted(ruleset.sets.items())]
        for name, value in parts:
            before = self._known.get(name)
            known[name] = before if before is not None and before[0] is value else (value, _hash(value))
            digest.update(name.encode() + b"\0" + known[name][1])
        digest.update(repr((ruleset.flags, sorted(ruleset.foreign), sorted(ruleset.counters))).encode())
        self._known = known
        return digest.hexdigest()


def _hash(value: Chain | NftSet) -> bytes:
    if isinstance(value, Chain):
        return hashlib.sha256(repr((value.base, tuple(r.exprs for r in value.rules))).encode()).digest()
    digest = hashlib.sha256(repr(value.spec).encode())
    if isinstance(value.elements, Keys):
        digest.update(value.elements.packed)
    elif KeyType.CGROUPSV2 not in value.spec.key:
        for key, data in sorted(value.elements.items()):
            digest.update(key + b"\0" + (str(data).encode() if data else b"") + b"\n")
    return digest.digest()


def kernel_digest(ruleset: Ruleset) -> str:
    """The digest of one table."""
    return RulesetDigest().of(ruleset)
