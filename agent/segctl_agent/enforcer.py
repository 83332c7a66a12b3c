"""The decision core: host policy and host facts in, one transaction out, and proof that the kernel holds it.

Synchronous; its only I/O is the injected kernel. What it wants is always a fresh render of (policy, facts, epoch): the
fast path for cgroups computes the same elements without rendering, and a property test holds the two together.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy

from segctl_agent.byuser import user_names, user_notes
from segctl_agent.change import next_epoch, only_adds
from segctl_agent.drift import differences, epoch_of, misplaces, same_but_cgroups
from segctl_agent.facts.values import Address, Endpoint, HostFacts
from segctl_agent.identity import Identity
from segctl_agent.nft.kernel import Kernel
from segctl_agent.nft.operations import Batch, Operation, element_delta
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Data, Ruleset, kernel_digest
from segctl_agent.render import CGROUP_MAP, render

_ATTEMPTS = 3
_MOST_DEPARTED = 256
_GENERATIONS = 1 << 32

ResolveUsers = Callable[[Iterable[str]], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Applied:
    """The kernel holds it: `kernel_digest` is of what was read back, `apply_us` the time from call to proof."""

    kernel_digest: str
    apply_us: int
    notes: tuple[str, ...]
    epoch: int


class Enforcer:
    """The one writer of our table. Not thread-safe: one call at a time.

    Facts may change before there is a policy; they are remembered. Whatever touches the kernel raises KernelError.
    """

    def __init__(
        self,
        kernel: Kernel,
        resolve_users: ResolveUsers,
        agent_uid: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._kernel, self._resolve, self._clock = kernel, resolve_users, clock
        self._cgroups: dict[str, int] = {}
        self._departed: dict[int, str] = {}
        self._facts = HostFacts(agent_uid=agent_uid)
        self._identity: Identity | None = None
        self._seen: int | None = None  # the kernel's generation at which it was known to hold `wanted`
        self.policy: HostPolicy | None = None
        self.wanted: Ruleset | None = None
        self.epoch = 0

    @property
    def identity(self) -> Identity | None:
        """How the policy in force places cgroups."""
        return self._identity

    @property
    def facts(self) -> HostFacts:
        departed = tuple((path, number) for number, path in self._departed.items())
        return replace(self._facts, cgroups=MappingProxyType(dict(self._cgroups)), departed=departed)

    def resume(self, policy: HostPolicy, stored_epoch: int) -> Applied:
        """Puts the last good generation in force at start. When the kernel holds it already, nothing is changed and no
        flow is judged anew; whatever else it holds, flows that it accepted are."""
        started = self._clock()
        now = self._kernel.read()
        held = epoch_of(now) if now is not None else None
        users = dict(self._resolve(user_names(policy)))
        if now is not None and held is not None:
            wanted = render(policy, replace(self.facts, users=users), held)
            if same_but_cgroups(now, wanted):
                return self._commit(policy, users, held, started)
        # Marks outlive a table, so the stored epoch may be on flows that something else let pass since.
        return self._commit(policy, users, next_epoch(stored_epoch if held is None else held), started)

    def adopt(self) -> bool:
        """Without a readable generation: what the kernel holds is what is wanted. False when there is no table."""
        before = self._kernel.generation()
        now = self._kernel.read()
        if now is None:
            return False
        self.wanted, self._seen, self.epoch = now, before, epoch_of(now) or 0
        return True

    def put(self, policy: HostPolicy) -> Applied:
        """Puts `policy` in force. On KernelError the policy before it is in force."""
        started = self._clock()
        users = dict(self._resolve(user_names(policy)))
        adds = self.policy is not None and users == self._facts.users and only_adds(self.policy, policy)
        return self._commit(policy, users, self.epoch if adds else next_epoch(self.epoch), started)

    def cgroups_changed(self, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
        """Follows cgroups by elements alone. After a KernelError the kernel lags behind: call `heal`.

        A cgroup that is gone keeps its elements, the newest ones of them: a session that outlives the restart of its
        unit, as those of sshd do, keeps its identity.
        """
        for path, number in removed.items():
            if self._cgroups.get(path) == number:
                del self._cgroups[path]
            self._departed[number] = path
        self._cgroups.update(added)
        for number in added.values():
            self._departed.pop(number, None)
        forgotten = [(self._departed.pop(n), n) for n in list(self._departed)[:-_MOST_DEPARTED]]
        if self._identity is None or self.wanted is None:
            return
        gone: dict[str, set[bytes]] = defaultdict(set)
        new: dict[str, dict[bytes, Data]] = defaultdict(dict)
        for path, number in forgotten:
            for element in self._identity.elements(path, number):
                gone[element.map].add(element.key)
        for path, number in added.items():
            for element in self._identity.elements(path, number):
                new[element.map][element.key] = element.verdict
        sets = dict(self.wanted.sets)
        operations: list[Operation] = []
        for name in gone.keys() | new.keys():
            before = sets[name].elements
            after = {k: v for k, v in before.items() if k not in gone[name]} | new[name]
            changed = {k for k in gone[name] | new[name].keys() if before.get(k) != after.get(k)}
            fresh = {k: after[k] for k in changed if k in after}
            operations += element_delta(name, CGROUP_MAP, (k for k in changed if k in before), fresh.items())
            sets[name] = replace(sets[name], elements=MappingProxyType(after))
        if not operations:
            return
        self.wanted = replace(self.wanted, sets=MappingProxyType(sets))
        self._apply_delta(Batch(tuple(operations)))

    def addresses_changed(self, addresses: frozenset[Address]) -> bool:
        """True when that changed the table."""
        self._facts = replace(self._facts, addresses=addresses)
        return self._facts_changed()

    def controllers_changed(self, controllers: tuple[Endpoint, ...]) -> bool:
        """True when that changed the table."""
        self._facts = replace(self._facts, controller=controllers)
        return self._facts_changed()

    def in_step(self) -> bool:
        """False when the kernel's ruleset, anyone's, changed since ours was last known to be whole. Costs 10 us."""
        return self.wanted is None or self._kernel.generation() == self._seen

    def unaffected(self, generation: int) -> None:
        """Someone's transaction made this generation of the kernel's ruleset and did not touch our table."""
        if self._seen is not None and generation == (self._seen + 1) % _GENERATIONS:
            self._seen = generation

    def heal(self) -> tuple[str, ...]:
        """Makes the kernel hold what is wanted. Answers what differed; empty when nothing did."""
        if self.wanted is None or self.in_step():
            return ()
        before = self._kernel.generation()
        now = self._kernel.read()
        found = differences(now, self.wanted)
        if not found:
            self._seen = before
            return ()
        self._kernel.apply(plan(now, self.wanted))
        foreign = now is not None and (not same_but_cgroups(now, self.wanted) or misplaces(now, self.wanted))
        if foreign and self.policy is not None:
            # A foreign rule or element may have accepted flows under our epoch: they are judged anew.
            self._commit(self.policy, self._facts.users, next_epoch(self.epoch), self._clock())
        else:
            self._prove(self.wanted)
        return found

    def destroy(self) -> None:
        """Removes the table and stops wanting one."""
        self._kernel.destroy()
        self.policy = self.wanted = self._identity = self._seen = None

    def counters(self) -> dict[str, int]:
        return self._kernel.counters()

    def read(self) -> Ruleset | None:
        return self._kernel.read()

    def _facts_changed(self) -> bool:
        if self.policy is None or self.wanted is None or render(self.policy, self.facts, self.epoch) == self.wanted:
            return False
        self._commit(self.policy, self._facts.users, next_epoch(self.epoch), self._clock())
        return True

    def _commit(self, policy: HostPolicy, users: Mapping[str, int], epoch: int, started: float) -> Applied:
        wanted = render(policy, replace(self.facts, users=users), epoch)
        if self.wanted is not None and self._kernel.generation() == self._seen:
            now: Ruleset | None = self.wanted
        else:
            now = self._kernel.read()
        # From here on the epoch is spent: if what follows goes wrong, flows may carry it.
        before, self.epoch = (self.policy, self.wanted, self._seen, self.epoch), epoch
        self._seen = None
        try:
            self._kernel.apply(plan(now, wanted))
        except KernelError:
            _, _, self._seen, self.epoch = before
            raise
        try:
            held = self._prove(wanted)
        except KernelError:
            self._restore()
            raise
        self.policy, self.wanted = policy, wanted
        self._facts = replace(self._facts, users=MappingProxyType(dict(users)))
        self._identity = Identity(policy, users)
        return Applied(
            kernel_digest=kernel_digest(held),
            apply_us=int((self._clock() - started) * 1e6),
            notes=user_notes(policy, users),
            epoch=epoch,
        )

    def _prove(self, wanted: Ruleset) -> Ruleset:
        """Applied means read back. Someone may write in between: a difference is mended before it is an error."""
        for _ in range(_ATTEMPTS):
            generation = self._kernel.generation()
            held = self._kernel.read()
            if held == wanted:
                self._seen = generation
                return held
            self._kernel.apply(plan(held, wanted))
        found = differences(held, wanted)
        raise KernelError(
            f"the kernel does not hold what it was given, after {_ATTEMPTS} attempts: {'; '.join(found[:5])}. Is "
            "another program changing the table inet segctl? See `nft monitor`"
        )

    def _restore(self) -> None:
        """Back to the policy before, under an epoch that no flow carries yet."""
        if self.policy is None:
            return
        self.epoch = next_epoch(self.epoch)
        self.wanted = render(self.policy, self.facts, self.epoch)
        self._kernel.apply(plan(self._kernel.read(), self.wanted))

    def _apply_delta(self, batch: Batch) -> None:
        before, self._seen = self._seen, None
        in_step = before is not None and self._kernel.generation() == before
        self._kernel.apply(batch)
        after = self._kernel.generation()
        if in_step and before is not None and after == (before + 1) % _GENERATIONS:
            self._seen = after  # ours was the only transaction in between
