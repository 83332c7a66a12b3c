"""What an owner may do with the policy of the whole fleet: change its own part of it, see segctl.policy.scope."""

from __future__ import annotations

from collections.abc import Mapping

from segctl.model.findings import Finding
from segctl.model.policy import Policy
from segctl.policy.scope import find_outside_scope

from segctl_controller.errors import ForbiddenError
from segctl_controller.principal import Principal
from segctl_controller.store.records import HostRecord, Role
from segctl_controller.way import Way


def is_owner(by: Principal | None) -> bool:
    """Of a part of the fleet; everybody else who may change the policy may change all of it."""
    return by is not None and by.role is Role.OWNER


def scope_findings(by: Principal, before: Policy, after: Policy) -> tuple[Finding, ...]:
    """An error for each difference that `by` may not make."""
    return find_outside_scope(before, after, by.scopes) if is_owner(by) else ()


def refuse_outside(by: Principal, before: Policy, after: Policy) -> None:
    """Raises ForbiddenError that names every statement, its place, and who may change it."""
    found = scope_findings(by, before, after)
    if found:
        told = "\n".join(map(str, found))
        raise ForbiddenError(f"{by.name!r} may change what belongs to {owned(by)}, and this changes more:\n{told}")


def refuse_way(by: Principal, way: Way, hosts: Mapping[str, HostRecord]) -> None:
    """Hosts of others keep their say in a push. Raises ForbiddenError."""
    if is_owner(by):
        for name in sorted(way.without):
            host = hosts.get(name)
            if host is not None and not any(host.tags.includes(scope) for scope in by.scopes):
                raise ForbiddenError(f"host {name} is not of {owned(by)}: {by.name!r} cannot leave it without a say")


def refuse_ending(by: Principal, author: str) -> None:
    """An owner ends its own trials. Raises ForbiddenError."""
    if is_owner(by) and by.name != author:
        raise ForbiddenError(f"this push is by {author!r}: its author, an editor or an administrator may end it")


def owned(by: Principal) -> str:
    return " or ".join(map(str, by.scopes))
