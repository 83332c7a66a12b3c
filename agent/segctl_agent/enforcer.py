"""The decision core: host policy and host facts in, one transaction out, and proof that the kernel holds it.

Synchronous; its only I/O is the injected kernel. What it wants is always a fresh render of (policy, facts, decisions):
the fast paths for cgroups and for members of groups compute the same without rendering, and property tests hold them
together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy

from segctl_agent.applied import Applied
from segctl_agent.byuser import user_names, user_notes
from segctl_agent.change import Turnover, decisions_with, members_moved, narrowed
from segctl_agent.decisions import (
    ESSENTIALS,
    Decision,
    Decisions,
    InUse,
    Turn,
    assign,
    needed,
    nobody,
    noted,
    turn_after,
)
from segctl_agent.drift import differences, misplaces, same_but_cgroups
from segctl_agent.facts.values import Address, ContainerFact, Endpoint, HostFacts
from segctl_agent.following import CgroupLedger, Fresh, follow, fresh_elements, has_room, replaced
from segctl_agent.identity import DIRECTIONS, Direction, Identity
from segctl_agent.members import Moved, move_members
from segctl_agent.nft.digest import RulesetDigest
from segctl_agent.nft.kernel import Kernel
from segctl_agent.nft.operations import AddElements, Batch, Operation
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Elements, NftSet, Ruleset
from segctl_agent.render import (
    MarkLayout,
    container_sets,
    live_map,
    render,
    render_chains,
)

_ATTEMPTS = 3
_MOST_UNDONE = 100
_GENERATIONS = 1 << 32

ResolveUsers = Callable[[Iterable[str]], Mapping[str, int]]
KeepHits = Callable[[Mapping[str, int]], object]


class Enforcer:
    """The one writer of our table. Not thread-safe: one call at a time.

    Facts may change before there is a policy; they are remembered. Whatever touches the kernel raises KernelError.
    """

    def __init__(
        self,
        kernel: Kernel,
        resolve_users: ResolveUsers,
        agent_uid: int,
        layout: MarkLayout = MarkLayout(),  # noqa: B008 - a frozen value
        clock: Callable[[], float] = time.perf_counter,
        in_use: InUse = nobody,
        keep_hits: KeepHits = lambda _: None,
    ) -> None:
        """`in_use` tells the ids that live flows carry, asked for when ids come round again. `keep_hits` is given the
        counters before some of them go."""
        self._kernel, self._resolve, self._clock = kernel, resolve_users, clock
        self._in_use, self._keep_hits = in_use, keep_hits
        self._cgroups = CgroupLedger()
        self._facts = HostFacts(agent_uid=agent_uid)
        self._identity: Identity | None = None
        self._seen: int | None = None  # the kernel's generation at which it was known to hold `wanted`
        self._behind = False  # something asked for a commit that the kernel refused: `heal` makes up for it
        self._undone: tuple[str, ...] = ()  # what a proof found changed and mended: `heal` tells it
        self._digest = RulesetDigest()
        self.layout = layout
        self.policy: HostPolicy | None = None
        self.wanted: Ruleset | None = None
        self._decisions = Decisions()
        self._given: dict[tuple[Direction, int], Decision] = {}

    @property
    def decisions(self) -> Decisions:
        """Those that the kernel holds."""
        return self._decisions

    @decisions.setter
    def decisions(self, new: Decisions) -> None:
        self._decisions = new
        self._given.update(new.by_id)

    def decision_of(self, direction: Direction, number: int) -> Decision | None:
        """Whose id this is or was last: denials and flows are told a little after their decision may have gone."""
        return self._given.get((direction, number))

    @property
    def identity(self) -> Identity | None:
        """How the policy in force places cgroups."""
        return self._identity

    @property
    def cgroup_count(self) -> int:
        return len(self._cgroups.here)

    @property
    def facts(self) -> HostFacts:
        return replace(self._facts, cgroups=self._cgroups.here, departed=self._cgroups.departed)

    def resume(self, policy: HostPolicy, stored_turn: Turn) -> Applied:
        """Puts the last good generation in force at start. When the kernel holds it already, nothing is changed and no
        flow is judged anew; whatever else it holds, flows that it accepted are."""
        started = self._clock()
        now = self._kernel.read()
        held = noted(now.chains, self.layout.most) if now is not None else None
        users = dict(self._resolve(user_names(policy)))
        if now is not None and held is not None and set(held.ids) == set(needed(policy)):
            self.decisions = replace(held, turn=turn_after(held.turn, stored_turn, self.layout.most))
            if same_but_cgroups(now, render(policy, replace(self.facts, users=users), held, self.layout)):
                return self._commit(policy, users, (), started)
        # Marks outlive a table, so ids given before may be on flows that something else let pass since.
        self.decisions = Decisions(held.ids if held is not None else MappingProxyType({}), stored_turn)
        return self._commit(policy, users, needed(policy), started, stranger=True)

    def adopt(self) -> bool:
        """Without a readable generation: what the kernel holds is what is wanted. False when there is no table."""
        before = self._kernel.generation()
        now = self._kernel.read()
        if now is None:
            return False
        self.wanted, self._seen = now, before
        self.decisions = noted(now.chains, self.layout.most) or Decisions()
        return True

    def put(self, policy: HostPolicy) -> Applied:
        """Puts `policy` in force. On KernelError the policy before it is in force."""
        started = self._clock()
        users = dict(self._resolve(user_names(policy)))
        if self.policy is None or users != self._facts.users:
            return self._commit(policy, users, needed(policy), started, stranger=self.policy is None)
        moved = members_moved(self.policy, policy)
        done = self._move(policy, moved, started) if moved is not None else None
        return done or self._commit(policy, users, narrowed(self.policy, policy), started)

    def rehearse(self, policy: HostPolicy) -> None:
        """Raises KernelError where the kernel would refuse `policy`. Changes nothing, and gives no ids."""
        users = dict(self._resolve(user_names(policy)))
        renew = needed(policy) if self.policy is None else narrowed(self.policy, policy)
        decisions = self._assign(policy, renew, stranger=self.policy is None)
        wanted = render(policy, replace(self.facts, users=users), decisions, self.layout)
        self._kernel.rehearse(plan(self._now(), wanted))

    def members_changed(self, group: str, added: Iterable[Address], removed: Iterable[Address]) -> Applied:
        """Some hosts more or less in one group of the policy in force: costs what changed alone."""
        if self.policy is None:
            raise KernelError("no policy is in force: its groups cannot change")
        started, moved = self._clock(), {}
        groups = list(self.policy.groups)
        for at, known in enumerate(groups):
            if known.name == group:
                new = tuple(a for a in added if a not in known.hosts)
                gone = tuple(a for a in removed if a in known.hosts)
                groups[at] = replace(known, hosts=known.hosts.changed(new, gone))
                moved[group] = Turnover(known.hosts, new, gone)
        policy = replace(self.policy, groups=tuple(groups))
        done = self._move(policy, moved, started)
        return done or self._commit(policy, self._facts.users, narrowed(self.policy, policy), started)

    def cgroups_changed(self, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
        """Follows cgroups by elements alone. After a KernelError the kernel lags behind: call `heal`.

        The kernel hears of new cgroups before anything else is done: until then their packets are dropped. A cgroup
        that is gone keeps its elements, the newest ones of them: a session that outlives the restart of its unit, as
        those of sshd do, keeps its identity.
        """
        wanted, identity = self.wanted, self._identity
        fresh: Fresh = fresh_elements(identity, added) if identity is not None and wanted is not None else {}
        try:
            if wanted is not None and fresh and all(has_room(wanted.sets[n], len(e)) for n, e in fresh.items()):
                adds = (AddElements(name, wanted.sets[name].spec, elements) for name, elements in fresh.items())
                self._apply_delta(Batch(tuple(adds)))
        finally:
            forgotten = self._cgroups.note(added, removed)
            if wanted is not None and identity is not None:
                self._cgroups_noted(wanted, *follow(wanted.sets, identity, fresh, forgotten))

    def _cgroups_noted(self, wanted: Ruleset, changed: Mapping[str, NftSet], operations: tuple[Operation, ...]) -> None:
        if self.policy is not None and not all(map(has_room, changed.values())):
            # A map outgrows its size, or has become much too large: it is made anew, with all that is in it.
            self._commit_again(self.policy, ())
            return
        self.wanted = replace(wanted, sets=MappingProxyType({**wanted.sets, **changed}))
        if operations:
            self._apply_delta(Batch(operations))

    def addresses_changed(self, addresses: frozenset[Address]) -> bool:
        """True when that changed the table."""
        self._facts = replace(self._facts, addresses=addresses)
        return self._facts_changed()

    def controllers_changed(self, controllers: tuple[Endpoint, ...]) -> bool:
        """True when that changed the table."""
        self._facts = replace(self._facts, controller=controllers)
        return self._facts_changed()

    def containers_changed(self, containers: tuple[ContainerFact, ...], bridges: tuple[str, ...]) -> None:
        """Follows containers by elements; by rules where a bridge comes or goes. One that has another name now may be
        of another workload, and every flow is judged anew. After a KernelError the kernel lags behind: call `heal`."""
        before, places = self._facts, self._identity
        self._facts = replace(self._facts, containers=containers, bridges=bridges)
        if self.policy is None:
            return
        self._identity = Identity(self.policy, self._facts.users, containers)
        if places is not None and replaced(before, places, self._facts, self._identity):
            self._commit_again(self.policy, needed(self.policy))
        else:
            self._follow_containers()

    def in_step(self) -> bool:
        """False when the kernel's ruleset, anyone's, changed since ours was last known to be whole. Costs 10 us."""
        return self.wanted is None or self._kernel.generation() == self._seen

    def unaffected(self, generation: int) -> None:
        """Someone's transaction made this generation of the kernel's ruleset and did not touch our table."""
        if self._seen is not None and generation == (self._seen + 1) % _GENERATIONS:
            self._seen = generation

    def heal(self) -> tuple[str, ...]:
        """Makes the kernel hold what is wanted. Answers what differed; empty when nothing did."""
        if self.wanted is None:
            return ()
        if self.in_step():
            return self._catch_up()
        before = self._kernel.generation()
        now = self._kernel.read()
        found = differences(now, self.wanted)
        if not found:
            self._seen = before
            return self._catch_up()
        self._kernel.apply(plan(now, self.wanted))
        foreign = now is not None and (not same_but_cgroups(now, self.wanted) or misplaces(now, self.wanted))
        if foreign and self.policy is not None:
            # A foreign rule or element may have accepted flows under our marks: they are judged anew.
            self._commit_again(self.policy, needed(self.policy))
        else:
            self._prove(self.wanted)
        return found + self._catch_up()

    def _catch_up(self) -> tuple[str, ...]:
        """What the kernel refused, or someone wrote while we proved, may have left flows under marks that are not
        theirs. Answers what someone wrote."""
        undone, self._undone = self._undone, ()
        if (undone or self._behind) and self.policy is not None:
            try:
                self._commit_again(self.policy, needed(self.policy))
            except KernelError:
                self._undone = undone + self._undone
                raise
        return undone

    def destroy(self) -> None:
        """Removes the table and stops wanting one."""
        self._kernel.destroy()
        self.policy = self.wanted = self._identity = self._seen = None
        self._behind = False

    def counters(self) -> dict[str, int]:
        return self._kernel.counters()

    def hits(self) -> dict[str, int]:
        return self._kernel.hits()

    def read(self) -> Ruleset | None:
        return self._kernel.read()

    def _facts_changed(self) -> bool:
        """Facts other than cgroups, users and containers are in chains alone, in those of the essentials. Where
        containers are told apart, this host's addresses are also in a set."""
        if self.policy is None or self.wanted is None:
            return False
        if render_chains(self.policy, self.facts, self.decisions, self.layout) == self.wanted.chains:
            self._follow_containers()
            return False
        renew: Collection[Decision] = [Decision(d, ESSENTIALS) for d in DIRECTIONS]
        if self._identity is not None and self._identity.names_containers:
            renew = needed(self.policy)  # this host may have left a group, and its containers with it
        self._commit_again(self.policy, renew)
        return True

    def _moves_us(self, moved: Mapping[str, Turnover]) -> bool:
        """Whether this host comes or goes in a group, and with it its containers: that is in chains too."""
        if self._identity is None or not self._identity.names_containers:
            return False
        return any(a in t.added or a in t.removed for t in moved.values() for a in self._facts.addresses)

    def _follow_containers(self) -> None:
        if self.policy is None or self.wanted is None or self._identity is None or not self._identity.names_containers:
            return
        facts = self.facts
        sets = {**self.wanted.sets, **container_sets(facts, self._identity)}
        chains = render_chains(self.policy, facts, self.decisions, self.layout)
        before, self.wanted = self.wanted, replace(self.wanted, sets=MappingProxyType(sets), chains=chains)
        batch = plan(before, self.wanted)
        if batch.operations:
            self._apply_delta(batch)

    def _commit_again(self, policy: HostPolicy, renew: Collection[Decision]) -> None:
        """The policy in force, after something else changed. The facts are noted by now, so nobody asks again."""
        everything, self._behind = self._behind, True
        self._commit(policy, self._facts.users, needed(policy) if everything else renew, self._clock())
        self._behind = False

    def _commit(
        self,
        policy: HostPolicy,
        users: Mapping[str, int],
        renew: Collection[Decision],
        started: float,
        *,
        stranger: bool = False,
    ) -> Applied:
        decisions = self._assign(policy, renew, stranger=stranger)
        wanted = render(policy, replace(self.facts, users=users), decisions, self.layout)
        now = self._now()
        try:
            self._apply(now, wanted, {})
        except KernelError:
            self._spend(self.decisions, decisions)
            raise
        # From here on the ids are given: if what follows goes wrong, flows may carry them.
        before, self.decisions = self.decisions, decisions
        try:
            held = self._prove(wanted)
        except KernelError:
            self._restore()
            raise
        self.policy, self.wanted = policy, wanted
        self._facts = replace(self._facts, users=MappingProxyType(dict(users)))
        self._identity = Identity(policy, users, self._facts.containers)
        return self._applied(held, before, started)

    def _now(self) -> Ruleset | None:
        """What the kernel holds."""
        in_step = self.wanted is not None and self._kernel.generation() == self._seen
        return self.wanted if in_step else self._kernel.read()

    def _assign(self, policy: HostPolicy, renew: Collection[Decision], *, stranger: bool = False) -> Decisions:
        most = self.layout.most
        return assign(self.decisions, needed(policy), renew, most, self._in_use, stranger=stranger)

    def _spend(self, before: Decisions, tried: Decisions) -> None:
        """The ids before hold, and none that was tried is given again: that the kernel's answer was an error, or was
        lost, does not prove that no flow got one."""
        self.decisions = replace(before, turn=tried.turn, avoid=tried.avoid)

    def _move(self, policy: HostPolicy, turnover: Mapping[str, Turnover], started: float) -> Applied | None:
        """Members of groups that come and go: elements alone, and where some go, the ids of what they were part of.
        None where more than that has to change, or somebody changed the table."""
        if self.wanted is None or self._moves_us(turnover) or self._kernel.generation() != self._seen:
            return None
        moved = move_members(self.wanted, policy, turnover)
        if moved is None:
            return None
        lost = frozenset(d for group in moved.narrowed for d in decisions_with(policy, group))
        before, wanted = self.decisions, replace(self.wanted, sets=MappingProxyType({**self.wanted.sets, **moved.sets}))
        if lost:
            self.decisions = self._assign(policy, lost)
            sets = {**wanted.sets, **live_map(self.decisions, self.layout)}
            chains = render_chains(policy, self.facts, self.decisions, self.layout)
            wanted = replace(wanted, sets=MappingProxyType(sets), chains=chains)
        generation = self._seen
        try:
            self._apply(self.wanted, wanted, moved.moves)
        except KernelError:
            self._spend(before, self.decisions)
            raise
        if (
            generation is not None
            and self._kernel.generation() == (generation + 1) % _GENERATIONS
            and self._holds(wanted, moved, chains=bool(lost))
        ):
            self._seen = (generation + 1) % _GENERATIONS
        else:
            try:
                self._prove(wanted)
            except KernelError:
                self._restore()
                raise
        self.policy, self.wanted = policy, wanted
        return self._applied(wanted, before, started)

    def _holds(self, wanted: Ruleset, moved: Moved, *, chains: bool) -> bool:
        """Ours was the only transaction since the table was known to be whole: what it changed is read back."""
        for name, (gone, new) in moved.moves.items():
            spec = wanted.sets[name].spec
            if dict(self._kernel.held(name, spec, new)) != dict(new) or self._kernel.held(name, spec, gone):
                return False
        return not chains or self._kernel.chains() == wanted.chains

    def _apply(
        self, now: Ruleset | None, wanted: Ruleset, moves: Mapping[str, tuple[Collection[bytes], Elements]]
    ) -> None:
        if now is not None and now.counters - wanted.counters:
            self._keep_hits(self._kernel.hits())
        before, self._seen = self._seen, None
        try:
            self._kernel.apply(plan(now, wanted, moves))
        except KernelError:
            self._seen = before
            raise

    def _applied(self, held: Ruleset, before: Decisions, started: float) -> Applied:
        assert self.policy is not None
        return Applied(
            digest=partial(self._digest.of, held),
            apply_us=int((self._clock() - started) * 1e6),
            notes=user_notes(self.policy, self._facts.users),
            turn=self.decisions.turn,
            narrowed=any(d.lives and self.decisions.ids.get(d) != n for d, n in before.ids.items()),
        )

    def _prove(self, wanted: Ruleset) -> Ruleset:
        """Applied means read back. Someone may write in between: a difference is mended before it is an error, and
        told by the next `heal`."""
        for _ in range(_ATTEMPTS):
            generation = self._kernel.generation()
            held = self._kernel.read()
            if held == wanted:
                self._seen = generation
                return held
            self._undone = tuple(dict.fromkeys(self._undone + differences(held, wanted)))[:_MOST_UNDONE]
            self._kernel.apply(plan(held, wanted))
        found = differences(held, wanted)
        raise KernelError(
            f"the kernel does not hold what it was given, after {_ATTEMPTS} attempts: {'; '.join(found[:5])}. Is "
            "another program changing the table inet segctl? See `nft monitor`"
        )

    def _restore(self) -> None:
        """Back to the policy before, under ids that no flow carries yet."""
        if self.policy is None:
            return
        self.decisions = self._assign(self.policy, needed(self.policy))
        self.wanted = render(self.policy, self.facts, self.decisions, self.layout)
        self._kernel.apply(plan(self._kernel.read(), self.wanted))

    def _apply_delta(self, batch: Batch) -> None:
        """Elements alone. When anyone else changed the ruleset since `_seen`, the generation has gone on by more than
        our one: no need to ask before."""
        before, self._seen = self._seen, None
        self._kernel.apply(batch)
        after = self._kernel.generation()
        if before is not None and after == (before + 1) % _GENERATIONS:
            self._seen = after
