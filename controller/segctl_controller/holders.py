"""Who holds certificates of which CA: what a rotation waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segctl_controller.authority import Authority
from segctl_controller.rotation import CaSet
from segctl_controller.store.protocol import Store


@dataclass(frozen=True, slots=True)
class Holders:
    """Names of those whose certificate in use is of one CA, or of one that was retired."""

    hosts: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()


def count_holders(store: Store, cas: CaSet) -> dict[Authority | None, Holders]:
    """For each CA of `cas`, and None for what a retired one gave."""
    hosts = [(host.name, cas.giver(host.serial)) for host in store.hosts()]
    # An operator without a certificate holds none that could end.
    operators = [(one.name, cas.giver(one.serial)) for one in store.operators() if one.serial]
    return {authority: Holders(_of(hosts, authority), _of(operators, authority)) for authority in (*cas.trusted, None)}


def _of(held: Iterable[tuple[str, Authority | None]], authority: Authority | None) -> tuple[str, ...]:
    return tuple(name for name, giver in held if giver is authority)
