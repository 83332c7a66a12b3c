"""Policy and hosts to what each host must enforce, and what changes for whom when hosts change.

A remote selector becomes a *group*: the addresses of the hosts it names, or a peer's networks. A group's name depends
on what it means (selector, `within` values, boundaries), never on who is in it, so a host that joins or leaves is a
change of members and nothing else.

Hosts that carry the same tags, as far as the policy speaks of them, share a *profile*: their instances, entries and
groups are worked out once. A change of a host's addresses touches the groups that its profile is in, and the profiles
that need those groups; a change of tags moves the host to another profile.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from operator import attrgetter

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Group, HostPolicy
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Essentials, Network, Policy
from segctl.policy.body import Body, Managed, Members, Rules
from segctl.policy.networks import collapse
from segctl.policy.profile import Profile, ProfileMaker, Remote
from segctl.policy.selectors import SelectorIndex

STEP = 64
"""Hosts, profiles or groups between two steps of `settling`."""
WORN = 256
"""Profiles without a host that are put up with, and as many as there are others: then all is worked out anew."""
NO_RULES = Rules.of(Essentials(), ())
NOBODY = Managed(AddressSet())
NO_BODY = Body(NO_RULES, (), NOBODY)


def compile_host(
    policy: Policy, inventory: Inventory, host: str, generation: int, policy_digest: str, now: datetime
) -> HostPolicy:
    """The host policy of one enrolled host. Raises KeyError for a host that is not in the inventory."""
    return Compiler(policy, inventory, now).host_policy(host, generation, policy_digest)


class Compiler:
    """Compiles one policy for hosts that come, change and go. `now` decides which rules have ended.

    `put` and `drop` only note what changed; `settle` works it out.
    """

    def __init__(self, policy: Policy, inventory: Inventory, now: datetime) -> None:
        self._policy, self._now = policy, now
        self._pending: dict[str, Host | None] = dict(inventory.hosts)
        self._begin()

    def _begin(self) -> None:
        self._fresh: list[_Group] = []
        self._maker = ProfileMaker(self._policy, self._now, self._new_group)
        self._hosts: dict[str, _Placed] = {}
        self._profiles: dict[tuple[tuple[str, str], ...], _Known] = {}
        self._spaces: dict[tuple[str, ...], _Space] = {}
        self._everyone = AddressSet()
        self._holders: dict[bytes, int] = {}

    def _new_group(self, remote: Remote) -> _Group:
        group = _Group(remote)
        self._fresh.append(group)
        return group

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
        return self._hosts[host].known.body

    def settled_body(self, host: str) -> Body | None:
        """As of the last time that changes were settled; None for a host that was not there then."""
        placed = self._hosts.get(host)
        return placed.known.body if placed is not None else None

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
        idle = sum(not known.hosts for known in self._profiles.values())
        if idle > WORN and idle * 2 > len(self._profiles):
            self._pending = {**{name: placed.host for name, placed in self._hosts.items()}, **self._pending}
            self._begin()
        pending, self._pending = self._pending, {}
        batch = _Batch()
        for number, (name, host) in enumerate(pending.items()):
            self._place(name, host, batch)
            if number % STEP == 0:
                yield
        yield from self._introduce(batch)
        yield from self._move(batch)
        for known in batch.stale:
            known.renew()
        yield
        names = {name for name in batch.moved if name in self._hosts}
        for known in batch.stale:
            names |= known.hosts
        return frozenset(names)

    def _place(self, name: str, host: Host | None, batch: _Batch) -> None:
        """Into its profile; which addresses came and went there is noted."""
        was = self._hosts.pop(name, None)
        if was is not None and host is not None and was.host.tags == host.tags:
            known: _Known | None = was.known
        else:
            known = self._profile(host, batch) if host is not None else None
        packed = frozenset(a.packed for a in host.addresses) if host is not None else frozenset()
        stays = was is not None and was.known is known
        if was is not None:
            gone = was.packed - packed if stays else was.packed
            if gone:
                batch.gone.setdefault(was.known, set()).update(gone)
                self._hold(gone, -1)
            was.known.hosts.discard(name)
        if host is None or known is None:
            return
        come = packed - was.packed if was is not None and stays else packed
        if come:
            batch.come.setdefault(known, set()).update(come)
            self._hold(come, 1)
        self._hosts[name] = _Placed(host, known, packed)
        known.hosts.add(name)
        if not stays:
            batch.moved.add(name)

    def _hold(self, addresses: Iterable[bytes], more: int) -> None:
        for address in addresses:
            count = self._holders.get(address, 0) + more
            if count:
                self._holders[address] = count
            else:
                del self._holders[address]

    def _profile(self, host: Host, batch: _Batch) -> _Known:
        tags = self._maker.relevant(host.tags)
        known = self._profiles.get(tags.pairs)
        if known is None:
            known = self._profiles[tags.pairs] = _Known(self._maker.profile(tags))
            batch.profiles.append(known)
        return known

    def _introduce(self, batch: _Batch) -> Generator[None, None, None]:
        """New profiles: which groups they need, which they are in, and who is in the groups that nobody needed yet."""
        yield from self._enter(self._maker.groups.values(), batch.profiles)
        for number, known in enumerate(batch.profiles):
            known.rules, groups = self._maker.rules(known.profile)
            known.needs = tuple(sorted(groups, key=_name))
            for group in groups:
                group.needed_by.add(known)
            if number % STEP == 0:
                yield
        fresh, self._fresh = self._fresh, []
        yield from self._enter(fresh, self._profiles.values())
        for group in fresh:
            if group.remote.selector.peer is not None:
                group.members = Members(Group(group.name, self._maker.networks(group.remote)))
            else:
                group.unknown = True
                batch.touched.add(group)
        for known in batch.profiles:
            self._give_space(known)
        batch.stale.update(batch.profiles)

    def _enter(self, groups: Collection[_Group], profiles: Collection[_Known]) -> Generator[None, None, None]:
        """Which of the profiles are in which of the groups."""
        index: SelectorIndex[_Group] = SelectorIndex()
        if not groups or not profiles:
            return
        for group in groups:
            index.add(group, group.remote.selector, group.remote.within)
        for number, known in enumerate(profiles):
            found = {
                group
                for local in known.profile.locals
                for group in index.find(local.at)
                if self._maker.names(group.remote, local)
            }
            for group in found:
                if group.remote.cover is None or not self._maker.crosses(group.remote, known.profile):
                    group.profiles.append(known)
                    known.groups.append(group)
            if number % STEP == 0:
                yield

    def _give_space(self, known: _Known) -> None:
        peers = [g for g in known.needs if g.remote.selector.peer is not None]
        if not peers:
            return
        names = tuple(g.name for g in peers)
        space = self._spaces.get(names)
        if space is None:
            networks = [n for g in peers for n in (*g.group.networks, *map(ip_network, g.group.hosts))]
            space = self._spaces[names] = _Space(collapse(networks), Managed(AddressSet()))
            space.renew(self._everyone)
        known.space = space
        space.needed_by.append(known)

    def _move(self, batch: _Batch) -> Generator[None, None, None]:
        """Addresses that came and went: into the groups that their profiles are in, and so to who needs those."""
        come, gone = (set().union(*moved.values()) for moved in (batch.come, batch.gone))
        # Two hosts held it, and one still does: who has it now is worked out from the hosts.
        shared = {a for a in gone if self._holders.get(a, 0) > (a in come)}
        for known, addresses in batch.gone.items():
            known.addresses -= addresses
            doubtful = not shared.isdisjoint(addresses)
            if doubtful:
                known.addresses = {a for name in known.hosts for a in self._hosts[name].packed}
            for group in known.groups:
                group.gone |= addresses
                group.unknown = group.unknown or doubtful
        for known, addresses in batch.come.items():
            known.addresses |= addresses
            for group in known.groups:
                group.come |= addresses
        batch.touched.update(g for moved in (batch.gone, batch.come) for known in moved for g in known.groups)
        for number, group in enumerate(batch.touched):
            if group.settle():
                batch.stale |= group.needed_by
            if number % STEP == 0:
                yield
        if come or gone:
            yield from self._renew_spaces(come, gone, batch)

    def _renew_spaces(self, come: set[bytes], gone: set[bytes], batch: _Batch) -> Generator[None, None, None]:
        self._everyone = self._everyone.updated(come, {a for a in gone - come if a not in self._holders})
        for space in self._spaces.values():
            if space.renew(self._everyone):
                batch.stale.update(space.needed_by)
            yield


_name = attrgetter("name")


@dataclass(slots=True, eq=False)
class _Known:
    """A profile, its hosts and their addresses, the groups that it needs (by name) and those that it is in."""

    profile: Profile
    hosts: set[str] = field(default_factory=set)
    addresses: set[bytes] = field(default_factory=set)
    groups: list[_Group] = field(default_factory=list)
    needs: tuple[_Group, ...] = ()
    rules: Rules = NO_RULES
    space: _Space | None = None
    body: Body = NO_BODY

    def renew(self) -> None:
        managed = self.space.managed if self.space is not None else NOBODY
        self.body = Body(self.rules, tuple([group.members for group in self.needs]), managed)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A host in its profile; `packed` are its addresses."""

    host: Host
    known: _Known
    packed: frozenset[bytes]


class _Group:
    """Who is in it and who needs it. `come` and `gone` are addresses that are not in `members` yet; where `unknown`,
    they are gathered anew."""

    __slots__ = ("come", "gone", "members", "name", "needed_by", "profiles", "remote", "unknown")

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.name = remote.name
        self.profiles: list[_Known] = []
        self.needed_by: set[_Known] = set()
        self.members = Members(Group(self.name))
        self.come: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.unknown = False

    @property
    def group(self) -> Group:
        return self.members.group

    def settle(self) -> bool:
        """Whether its members are others now."""
        before = self.members.group.hosts
        if self.unknown:
            now = AddressSet.packing(set().union(*[known.addresses for known in self.profiles]))
        else:
            now = before.updated(self.come, self.gone - self.come)
        self.come, self.gone, self.unknown = set(), set(), False
        if now == before:
            return False
        self.members = Members(Group(self.name, hosts=now))
        return True


class _Space:
    """The networks of the peers that a profile needs, and the enrolled addresses among them."""

    __slots__ = ("_networks", "managed", "needed_by")

    def __init__(self, networks: tuple[Network, ...], managed: Managed) -> None:
        self._networks = networks
        self.managed = managed
        self.needed_by: list[_Known] = []

    def renew(self, everyone: AddressSet) -> bool:
        """Whether they are others now."""
        inside = everyone.inside(self._networks)
        if inside == self.managed.addresses:
            return False
        self.managed = Managed(inside)
        return True


@dataclass(slots=True)
class _Batch:
    """What one round of changes comes to. `come` and `gone` are addresses by profile."""

    come: dict[_Known, set[bytes]] = field(default_factory=dict)
    gone: dict[_Known, set[bytes]] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    profiles: list[_Known] = field(default_factory=list)
    touched: set[_Group] = field(default_factory=set)
    stale: set[_Known] = field(default_factory=set)
