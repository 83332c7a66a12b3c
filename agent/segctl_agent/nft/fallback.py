"""The second way to apply a batch: libnftables makes the messages of the rules, and of all else that nft has words for.

For kernels that refuse what we encode ourselves. It costs more time, and a few milliseconds in which sockets whose
cgroup changes its workload are unknown: see `bytext` for what goes in which transaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from segctl.errors import KernelError, KernelFormError

from segctl_agent.nft.bytext import batch_text, split, unsayable
from segctl_agent.nft.kernel import Encoder, NetlinkKernel
from segctl_agent.nft.library import load_text
from segctl_agent.nft.messages import encode
from segctl_agent.nft.netlink import Netlink
from segctl_agent.nft.operations import AddElements, AddRule, AddTable, Batch, DeleteElements, DeleteTable
from segctl_agent.nft.ownership import TableGuard
from segctl_agent.nft.ruleset import TABLE, Odd

Tell = Callable[[str], object]
"""Is given a sentence for people, in the thread that applies."""


class Apply(Enum):
    """How batches are applied. AUTO: by netlink, and by text what the kernel does not take in our form."""

    AUTO = "auto"
    NETLINK = "netlink"
    TEXT = "text"


class LibraryKernel(NetlinkKernel):
    """Applies by libnftables; reads as `NetlinkKernel` does. Batches of cgroup elements alone, and the few that have no
    words, go by netlink as ever. `apply` must be called in the network namespace in which this object was made."""

    def apply(self, batch: Batch) -> None:
        """All of it or nothing, as far as one writer can say: between its transactions others may write. When the last
        one is refused for that, cgroups stay unknown, and the caller finds it when it reads back."""
        if not has_words(batch):
            super().apply(batch)
            return
        parts = split(batch)
        # What a later step would be refused, for the state that the table is in, is refused before the first. Rules are
        # all in one step.
        self.rehearse(Batch(tuple(op for op in batch.operations if not isinstance(op, AddRule))))
        undo = self._undo_of(parts.before)
        super().apply(parts.before)
        try:
            with self._not_owned():
                load_text(batch_text(parts.by_text, self._table))
        except KernelError:
            super().apply(undo)
            raise
        super().apply(parts.after)

    def rehearse(self, batch: Batch) -> None:
        """A form that is refused is what the text is for."""
        with suppress(KernelFormError):
            super().rehearse(batch)

    def _undo_of(self, before: Batch) -> Batch:
        """Takes back the first transaction. What was Odd in our maps is somebody else's, and not put back."""
        if self._state() is None:
            return Batch((DeleteTable(),))
        deleted = (op for op in before.operations if isinstance(op, DeleteElements))
        held = ((op, self.held(op.name, op.spec, op.keys)) for op in deleted)
        kept = ((op, {k: d for k, d in found.items() if not isinstance(d, Odd)}) for op, found in held)
        return Batch(tuple(AddElements(op.name, op.spec, elements) for op, elements in kept))

    @contextmanager
    def _not_owned(self) -> Iterator[None]:
        """libnftables writes from a socket of its own, and the kernel lets the owner's alone write. So the owner goes:
        the table stays in force as an orphan, which anyone may write, and is adopted again a moment later. A new socket
        gets the same port, the pid, when nobody took that meanwhile; else `NftWatch` merely hears more of us."""
        state = self._state()
        if state is None or state.owner != self._netlink.port:
            yield
            return
        self._netlink.close()
        try:
            yield
        finally:
            self._netlink = Netlink()
            super().apply(Batch((AddTable(),)))


class AutoKernel(LibraryKernel):
    """Applies by netlink, and by libnftables a batch that the kernel refuses for its form. `tell` hears of the first
    time that this happens."""

    def __init__(
        self,
        tell: Tell,
        table: str = TABLE,
        guard: TableGuard = TableGuard.WATCH,
        encode: Encoder = encode,
    ) -> None:
        self._tell, self._told = tell, False
        super().__init__(table, guard, encode)

    def apply(self, batch: Batch) -> None:
        try:
            NetlinkKernel.apply(self, batch)
        except KernelFormError as refused:
            if not has_words(batch):
                raise
            try:
                super().apply(batch)
            except KernelError as error:
                raise KernelError(f"{refused}. The second way failed too: {error}") from refused
            self._say(refused)

    def _say(self, refused: KernelFormError) -> None:
        if not self._told:
            self._told = True
            self._tell(
                f"the kernel refused our own encoding of: {refused.what}. libnftables' was taken: report this with the "
                f"kernel's version, {os.uname().release}"
            )


def has_words(batch: Batch) -> bool:
    """Whether libnftables could do a part of it."""
    return unsayable(batch) is None and bool(split(batch).by_text)


def open_kernel(apply: Apply, guard: TableGuard, tell: Tell) -> NetlinkKernel:
    """`tell`: as in AutoKernel. Raises KernelError as NetlinkKernel does."""
    if apply is Apply.NETLINK:
        return NetlinkKernel(guard=guard)
    return LibraryKernel(guard=guard) if apply is Apply.TEXT else AutoKernel(tell, guard=guard)
