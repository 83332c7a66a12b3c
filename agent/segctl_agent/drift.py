"""What the kernel holds against what is wanted. Pure."""

from __future__ import annotations

from segctl_agent.nft.ruleset import KeyType, NftSet, Ruleset


def same_but_cgroups(now: Ruleset, wanted: Ruleset) -> bool:
    """True when the two differ in nothing but the ids of cgroups, which come and go without any change of policy."""
    return (
        now.chains == wanted.chains
        and (now.flags, now.foreign, now.counters) == (wanted.flags, wanted.foreign, wanted.counters)
        and now.sets.keys() == wanted.sets.keys()
        and all(_same_but_cgroups(now.sets[n], s) for n, s in wanted.sets.items())
    )


def misplaces(now: Ruleset, wanted: Ruleset) -> bool:
    """True when `now` gives a cgroup to a workload that `wanted` does not give it to. One that `now` lacks is no more
    than late."""
    return any(
        wanted.sets[name].elements.get(key) != data
        for name, found in now.sets.items()
        if name in wanted.sets and KeyType.CGROUPSV2 in found.spec.key
        for key, data in found.elements.items()
    )


def _same_but_cgroups(now: NftSet, wanted: NftSet) -> bool:
    return now.spec == wanted.spec and (KeyType.CGROUPSV2 in wanted.spec.key or now.elements == wanted.elements)


def differences(now: Ruleset | None, wanted: Ruleset) -> tuple[str, ...]:
    """What someone did to our table, a phrase for each object, for people."""
    if now is None:
        return ("the table is gone",)
    found = [f"chain {n} is gone" for n in sorted(wanted.chains.keys() - now.chains.keys())]
    found += [f"chain {n} was added" for n in sorted(now.chains.keys() - wanted.chains.keys())]
    for name in sorted(wanted.chains.keys() & now.chains.keys()):
        if now.chains[name].base != wanted.chains[name].base:
            found.append(f"the hook or policy of chain {name} was changed")
        if now.chains[name].rules != wanted.chains[name].rules:
            found.append(f"the rules of chain {name} were changed")
    found += [f"set {n} is gone" for n in sorted(wanted.sets.keys() - now.sets.keys())]
    found += [f"set {n} was added" for n in sorted(now.sets.keys() - wanted.sets.keys())]
    for name in sorted(wanted.sets.keys() & now.sets.keys()):
        if now.sets[name].spec != wanted.sets[name].spec:
            found.append(f"set {name} was made anew with another type")
        elif now.sets[name].elements != wanted.sets[name].elements:
            found.append(f"the elements of set {name} were changed")
    found += [f"counter {n} is gone" for n in sorted(wanted.counters - now.counters)]
    found += [f"counter {n} was added" for n in sorted(now.counters - wanted.counters)]
    if now.flags != wanted.flags:
        found.append("the table's flags were changed")
    found += [f"{f.kind.value} {f.name} was added" for f in sorted(now.foreign)]
    return tuple(found)
