"""Who is meant by the other end of a rule: looked up by what it names, and shared by all groups that mean the same.

    Profile ── needs ──▶ Remote (a group) ◀── groups ── Cohort ── profiles ──▶ Profile
       ▲                    │                              ▲                       │
       └───── needed_by ────┘                              └─────── cohorts ───────┘

`needed_by` and `profiles` are numbers of profiles: so nothing refers to itself, and all that was made of a policy goes
with the last reference to it. To find it, the garbage collector would have to look through the whole controller.

A change of a host's addresses goes from its profile to the cohorts that the profile is in, to the groups that are made
of those, and so to the profiles that need them. Profiles and cohorts lie in tables by the set of keys that is named
(as in `SelectorIndex`): a new profile looks itself up once in each, a new cohort once in one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from segctl.model.addresses import FEW, AddressSet
from segctl.model.policy import Answer, Essentials, Mode, Network, PortRange, Process
from segctl.policy.body import Body, Hosts, Managed, Members, Rules
from segctl.policy.digest import workload_head
from segctl.policy.selectors import Coordinates, picker

NO_ONE = Hosts(AddressSet())
NO_MEMBERS = Members("", (), NO_ONE)
NO_RULES = Rules.of(Essentials(), ())
NOTHING_MANAGED = Managed(AddressSet())
NO_BODY = Body(NO_RULES, (), NOTHING_MANAGED)


@dataclass(slots=True, eq=False)
class Stance:
    """What a policy's modes make of an instance. `heads` are the canonical texts of such workloads, by name."""

    mode: Mode
    outgoing: Answer
    incoming: Answer
    heads: dict[str, str] = field(default_factory=dict)

    def head(self, name: str, process: Process | None) -> str:
        if name not in self.heads:
            self.heads[name] = workload_head(name, process, self.mode, self.outgoing, self.incoming)
        return self.heads[name]


@dataclass(slots=True, eq=False)
class Guard:
    """What boundaries and modes say of an instance: the boundaries, by their position, whose source (`leaving`) and
    whose destination (`entering`) names it, and the modes."""

    leaving: frozenset[int]
    entering: frozenset[int]
    stance: Stance


@dataclass(slots=True, eq=False)
class Local:
    """An instance as a profile has it. `at` are its coordinates."""

    workload: str
    at: Coordinates
    guard: Guard


@dataclass(slots=True, eq=False)
class Kind:
    """What a profile is of: the tags of its hosts that the policy speaks of, and their instances."""

    pairs: tuple[tuple[str, str], ...]
    locals: tuple[Local, ...]


@dataclass(slots=True, eq=False)
class Profile:
    """Hosts of one kind and their packed addresses. `needs` are its groups by name."""

    kind: Kind
    number: int
    hosts: set[str] = field(default_factory=set)
    addresses: set[bytes] = field(default_factory=set)
    cohorts: list[Cohort] = field(default_factory=list)
    rules: Rules = NO_RULES
    needs: tuple[Remote, ...] = ()
    space: Space | None = None
    body: Body = NO_BODY

    def renew(self) -> None:
        managed = self.space.managed if self.space is not None else NOTHING_MANAGED
        self.body = Body(self.rules, tuple([group.members for group in self.needs]), managed)


@dataclass(slots=True, eq=False)
class Remote:
    """A group, and who needs it. `peer`: it holds a peer's networks, and nobody's host."""

    name: str
    peer: bool
    members: Members = NO_MEMBERS
    needed_by: list[int] = field(default_factory=list)


NO_GROUP = Remote("", False)


@dataclass(slots=True, eq=False)
class Space:
    """The networks of the peers that some profiles need, and the enrolled addresses among them."""

    networks: tuple[Network, ...]
    managed: Managed = NOTHING_MANAGED
    needed_by: list[int] = field(default_factory=list)

    def renew(self, everyone: AddressSet) -> bool:
        """Whether they are others now."""
        inside = everyone.inside(self.networks)
        if inside == self.managed.addresses:
            return False
        self.managed = Managed(inside)
        return True


Cover = tuple[tuple[PortRange, ...], Kind]
"""Where a boundary may divide the workloads of one host: the ports and what the local host is, which tell whether
somebody could pass the boundary under the cover of the rule (`decide.crossing_boundary`)."""
Cuts = tuple[frozenset[int], bool, Cover | None]
"""Boundaries, by their position, that take somebody away; whether their destination names him; and the cover."""
UNCUT: Cuts = (frozenset(), False, None)


class Cohort:
    """The profiles that carry the same, and that no boundary takes away. `narrowed` are others that carry the same, by
    their cuts.

    `hosts` is None until they were gathered, which takes a group that wants them; where `unknown`, they are gathered
    anew."""

    __slots__ = ("_boundaries", "_entering", "cover", "groups", "hosts", "narrowed", "profiles", "unknown")

    def __init__(self, cuts: Cuts = UNCUT) -> None:
        self._boundaries, self._entering, self.cover = cuts
        self.profiles: list[int] = []
        self.groups: list[Remote] = []
        self.narrowed: dict[Cuts, Cohort] | None = None
        self.hosts: Hosts | None = None
        self.unknown = False

    def spares(self, local: Local) -> bool:
        """Whether `local` is not taken away by a boundary."""
        return self._boundaries.isdisjoint(local.guard.entering if self._entering else local.guard.leaving)

    def join(self, profile: Profile) -> None:
        self.profiles.append(profile.number)
        if self.groups:
            profile.cohorts.append(self)

    def take(self, group: Remote, profiles: Sequence[Profile]) -> bool:
        """Whether its hosts are still to be gathered. `profiles`: all, by their numbers."""
        if not self.groups:
            for number in self.profiles:
                profiles[number].cohorts.append(self)
            if not self.profiles:
                self.hosts = NO_ONE
        self.groups.append(group)
        if self.hosts is None:
            return True
        group.members = Members(group.name, (), self.hosts)
        return False

    def settle(self, profiles: Sequence[Profile], come: Collection[bytes], gone: Collection[bytes]) -> bool:
        """Whether it has other addresses now. `come` and `gone` have none in common."""
        before = self.hosts
        if before is None or self.unknown or (len(come) + len(gone)) * FEW > len(before.addresses):
            held = [profiles[number].addresses for number in self.profiles]
            now = AddressSet.packing(held[0] if len(held) == 1 else set().union(*held))
        else:
            now = before.addresses.updated(come, gone)
        self.unknown = False
        if before is not None and now == before.addresses:
            return False
        self.hosts = hosts = Hosts(now)
        for group in self.groups:
            group.members = Members(group.name, (), hosts)
        return True


Table = tuple[Callable[[dict[str, str]], Hashable], defaultdict[Hashable, Cohort]]
"""Of a set of keys: what tells their values, and the cohorts without cuts by those."""


Crosses = Callable[[Cohort, Kind], bool]
"""Whether a process of such a host could pass a boundary under the cover of the cohort's rule."""


class CohortIndex:
    """`profiles` are those that entered, by their numbers; `fresh` cohorts whose hosts were never gathered."""

    def __init__(self) -> None:
        self._tables: dict[frozenset[str], Table] = {}
        self.profiles: list[Profile] = []
        self.fresh: dict[Cohort, None] = {}

    def table(self, keys: Iterable[str]) -> Table:
        """Where cohorts of these keys lie. To be asked for before any profile enters."""
        wanted = frozenset(keys)
        table = self._tables.get(wanted)
        if table is None:
            table = self._tables[wanted] = picker(sorted(wanted)), defaultdict(Cohort)
        return table

    def enter(self, kind: Kind, crosses: Crosses) -> Profile:
        """A new profile, into the cohorts that there are and those to come."""
        profile = Profile(kind, len(self.profiles))
        self.profiles.append(profile)
        tables, number = list(self._tables.values()), profile.number
        for local in kind.locals:
            at = local.at
            for pick, table in tables:
                cohort = table[pick(at)]
                profiles = cohort.profiles
                if not profiles or profiles[-1] != number:  # else another of its instances did
                    cohort.join(profile)
                if cohort.narrowed is not None:
                    for narrow in cohort.narrowed.values():
                        _join(narrow, profile, local, crosses)
        return profile

    def give(self, group: Remote, table: Table, at: dict[str, str], cuts: Cuts, crosses: Crosses) -> None:
        """`group` means those that carry `at`, whose keys are those of the table."""
        pick, cohorts = table
        carried = pick(at)
        cohort = cohorts[carried]
        if cuts[0]:
            cohort = self._narrowed(cohort, cuts, lambda local: pick(local.at) == carried, crosses)
        if cohort.take(group, self.profiles):
            self.fresh[cohort] = None

    def _narrowed(self, wide: Cohort, cuts: Cuts, carries: Callable[[Local], bool], crosses: Crosses) -> Cohort:
        if wide.narrowed is None:
            wide.narrowed = {}
        cohort = wide.narrowed.get(cuts)
        if cohort is None:
            cohort = wide.narrowed[cuts] = Cohort(cuts)
            for profile in [self.profiles[number] for number in wide.profiles]:
                for local in profile.kind.locals:
                    if carries(local):
                        _join(cohort, profile, local, crosses)
        return cohort


def _join(cohort: Cohort, profile: Profile, local: Local, crosses: Crosses) -> None:
    if cohort.profiles and cohort.profiles[-1] == profile.number:
        return
    if cohort.spares(local) and (cohort.cover is None or not crosses(cohort, profile.kind)):
        cohort.join(profile)
