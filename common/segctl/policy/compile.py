"""Policy and hosts to what each host must enforce, and what changes for whom when hosts change.

A remote selector becomes a *group*: the addresses of the hosts it names, or a peer's networks. A group's name depends
on what it means (selector, `within` values, boundaries), never on who is in it, so a host that joins or leaves is a
change of members and nothing else.

Hosts that carry the same tags, as far as the policy speaks of them, share a *profile*: their instances, entries and
groups are worked out once. A change of a host's addresses touches the cohorts that its profile is in, the groups made
of those, and the profiles that need these (see `segctl.policy.cohorts`); a change of tags moves the host to another
profile.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from itertools import chain
from operator import attrgetter

from segctl.model.addresses import FEW, AddressSet
from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Policy
from segctl.policy.body import Body
from segctl.policy.cohorts import NO_BODY, Cohort, Profile, Space
from segctl.policy.entries import Pairs
from segctl.policy.networks import collapse
from segctl.policy.profile import ProfileMaker

__all__ = ["NO_BODY", "WORN", "Compiler", "compile_host"]

STEP = 16
"""Hosts, profiles or cohorts between two steps of `settling`: together they take less than a millisecond."""
WORN = 256
"""Profiles without a host that are put up with, and as many as there are others: then all is worked out anew."""


def compile_host(
    policy: Policy, inventory: Inventory, host: str, generation: int, policy_digest: str, now: datetime
) -> HostPolicy:
    """The host policy of one enrolled host. Raises KeyError for a host that is not in the inventory."""
    return Compiler(policy, inventory, now).host_policy(host, generation, policy_digest)


class Compiler:
    """Compiles one policy for hosts that come, change and go. `now` decides which rules have ended.

    `put` and `drop` only note what changed; `settle` works it out. Nothing is worked out before that.
    """

    def __init__(self, policy: Policy, inventory: Inventory, now: datetime) -> None:
        self._policy, self._now = policy, now
        self._pending: dict[str, Host | None] = dict(inventory.hosts)
        self._maker: ProfileMaker | None = None
        self._hosts: dict[str, _Placed] = {}
        self._profiles: dict[Pairs, Profile] = {}
        self._idle = 0
        """Profiles that lost their last host since those without one were counted, and those that were."""

    def put(self, host: Host) -> None:
        """A host that is new, or whose tags or addresses changed."""
        self._pending[host.name] = host

    def drop(self, name: str) -> None:
        self._pending[name] = None

    def host_policy(self, host: str, generation: int, policy_digest: str) -> HostPolicy:
        """Raises KeyError for a host that is not there."""
        return self.body(host).policy(host, generation, policy_digest)

    def body(self, host: str) -> Body:
        """The same object as long as nothing in it changed. Raises KeyError for a host that is not there."""
        if self._pending:
            self.settle()
        return self._hosts[host].profile.body

    def settled_body(self, host: str) -> Body | None:
        """As of the last time that changes were settled; None for a host that was not there then."""
        placed = self._hosts.get(host)
        return placed.profile.body if placed is not None else None

    def settle(self) -> frozenset[str]:
        """Work out what was noted: the hosts that are there and whose body is another one now."""
        steps = self.settling()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                changed: frozenset[str] = end.value
                return changed

    def settling(self) -> Generator[None, None, frozenset[str]]:
        """`settle` in steps. Between them changes may be noted, for the next time, and no body may be asked for."""
        if self._maker is None or self._worn():
            self._maker = yield from self._begin()
        pending, self._pending = self._pending, {}
        batch = _Batch()
        for number, (name, host) in enumerate(pending.items()):
            self._place(name, host, self._maker, batch)
            if number % STEP == 0:
                yield
        yield from self._introduce(self._maker, batch)
        yield from self._move(self._maker, batch)
        names = {name for name in batch.moved if name in self._hosts}
        for number, profile in enumerate([self._maker.cohorts.profiles[stale] for stale in batch.stale]):
            profile.renew()
            names |= profile.hosts
            if number % STEP == 0:
                yield
        return frozenset(names)

    def _worn(self) -> bool:
        """Profiles are counted only when there may be so many without a host."""
        if self._idle > WORN:
            self._idle = sum(not profile.hosts for profile in self._profiles.values())
        return self._idle > WORN and self._idle * 2 > len(self._profiles)

    def _begin(self) -> Generator[None, None, ProfileMaker]:
        """With nobody placed; whoever was is to be placed again."""
        maker = ProfileMaker(self._policy, self._now)
        yield from maker.reading()
        self._pending = {**{name: placed.host for name, placed in self._hosts.items()}, **self._pending}
        self._hosts = {}
        self._profiles = {}
        self._idle = 0
        self._spaces: dict[tuple[str, ...], Space] = {}
        self._everyone = AddressSet()
        self._holders: Counter[bytes] = Counter()
        return maker

    def _place(self, name: str, host: Host | None, maker: ProfileMaker, batch: _Batch) -> None:
        """Into its profile; which addresses came and went there is noted."""
        was = self._hosts.pop(name, None)
        if host is None:
            if was is not None:
                self._leave(name, was, batch)
            return
        packed = frozenset([a.packed for a in host.addresses])
        if was is None:
            profile, come = self._profile(maker, host, batch), packed
        elif was.host.tags == host.tags or (profile := self._profile(maker, host, batch)) is was.profile:
            profile, come = was.profile, packed - was.packed
            if gone := was.packed - packed:
                batch.gone[profile] += gone
        else:
            come = packed
            self._leave(name, was, batch)
        if come:
            batch.come[profile] += come
        self._hosts[name] = _Placed(host, profile, packed)
        if was is None or was.profile is not profile:
            profile.hosts.add(name)
            batch.moved.append(name)

    def _leave(self, name: str, was: _Placed, batch: _Batch) -> None:
        was.profile.hosts.discard(name)
        batch.gone[was.profile] += was.packed
        self._idle += not was.profile.hosts

    def _profile(self, maker: ProfileMaker, host: Host, batch: _Batch) -> Profile:
        pairs = maker.relevant(host.tags)
        profile = self._profiles.get(pairs)
        if profile is None:
            profile = self._profiles[pairs] = maker.profile(pairs)
            batch.profiles.append(profile)
        return profile

    def _introduce(self, maker: ProfileMaker, batch: _Batch) -> Generator[None, None, None]:
        """New profiles: the groups that they need, and the cohorts of those."""
        for number, profile in enumerate(batch.profiles):
            profile.rules, groups = maker.rules(profile)
            profile.needs = tuple(sorted(groups, key=_name))
            for group in profile.needs:
                group.needed_by.append(profile.number)
            self._give_space(profile)
            if number % STEP == 0:
                yield
        batch.fresh, maker.cohorts.fresh = list(maker.cohorts.fresh), {}
        batch.stale.update([profile.number for profile in batch.profiles])

    def _give_space(self, profile: Profile) -> None:
        peers = [group for group in profile.needs if group.peer]
        if not peers:
            return
        names = tuple([group.name for group in peers])
        space = self._spaces.get(names)
        if space is None:
            held = [g.members.group for g in peers]
            networks = [n for group in held for n in (*group.networks, *map(ip_network, group.hosts))]
            space = self._spaces[names] = Space(collapse(networks))
            space.renew(self._everyone)
        profile.space = space
        space.needed_by.append(profile.number)

    def _move(self, maker: ProfileMaker, batch: _Batch) -> Generator[None, None, None]:
        """Addresses that came and went: into the cohorts that their profiles are in, and so to who needs those."""
        come, gone = (list(chain.from_iterable(moved.values())) for moved in (batch.come, batch.gone))
        self._hold(come, gone)
        yield
        yield from self._change_cohorts(set(come), set(gone), batch)
        yield
        yield from self._settle_cohorts(maker.cohorts.profiles, batch)
        if come or gone:
            yield from self._renew_spaces(set(come), set(gone), batch)

    def _hold(self, come: Iterable[bytes], gone: Iterable[bytes]) -> None:
        holders = self._holders
        holders.update(come)
        for address in gone:
            if holders[address] == 1:
                del holders[address]
            else:
                holders[address] -= 1

    def _change_cohorts(self, come: set[bytes], gone: set[bytes], batch: _Batch) -> Generator[None, None, None]:
        """What changes of the cohorts' addresses, and those of the profiles in them."""
        # Two hosts held it, and one still does: who has it now is worked out from the hosts.
        shared = {a for a in gone if self._holders.get(a, 0) > (a in come)}
        for number, (profile, addresses) in enumerate(batch.gone.items()):
            profile.addresses.difference_update(addresses)
            doubtful = not shared.isdisjoint(addresses)
            if doubtful:
                profile.addresses = {a for name in profile.hosts for a in self._hosts[name].packed}
            for cohort in profile.cohorts:
                if cohort.hosts is not None:
                    batch.changes[cohort].gone.update(addresses)
                    cohort.unknown = cohort.unknown or doubtful
            if number % STEP == 0:
                yield
        for number, (profile, addresses) in enumerate(batch.come.items()):
            profile.addresses.update(addresses)
            for cohort in profile.cohorts:
                if cohort.hosts is not None:
                    batch.changes[cohort].come.update(addresses)
            if number % STEP == 0:
                yield

    def _settle_cohorts(self, profiles: Sequence[Profile], batch: _Batch) -> Generator[None, None, None]:
        for number, cohort in enumerate(batch.fresh):
            cohort.settle(profiles, (), ())
            if number % STEP == 0:
                yield
        for number, (cohort, change) in enumerate(batch.changes.items()):
            if cohort.settle(profiles, change.come, change.gone - change.come):
                for group in cohort.groups:
                    batch.stale.update(group.needed_by)
            if number % STEP == 0:
                yield

    def _renew_spaces(self, come: set[bytes], gone: set[bytes], batch: _Batch) -> Generator[None, None, None]:
        if (len(come) + len(gone)) * FEW > len(self._everyone):
            self._everyone = AddressSet.packing(self._holders)
        else:
            self._everyone = self._everyone.updated(come, {a for a in gone - come if a not in self._holders})
        for space in self._spaces.values():
            if space.renew(self._everyone):
                batch.stale.update(space.needed_by)
            yield


_name = attrgetter("name")


@dataclass(slots=True, eq=False)
class _Placed:
    """A host in its profile; `packed` are its addresses."""

    host: Host
    profile: Profile
    packed: frozenset[bytes]


@dataclass(slots=True, eq=False)
class _Change:
    """Addresses of a cohort."""

    come: set[bytes] = field(default_factory=set)
    gone: set[bytes] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Batch:
    """What one round of changes comes to. `come` and `gone` are addresses by profile."""

    come: defaultdict[Profile, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    gone: defaultdict[Profile, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    moved: list[str] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    fresh: list[Cohort] = field(default_factory=list)
    changes: defaultdict[Cohort, _Change] = field(default_factory=lambda: defaultdict(_Change))
    stale: set[int] = field(default_factory=set)
