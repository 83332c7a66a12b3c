"""Who speaks on the Admin service, however they showed it."""

from __future__ import annotations

from dataclasses import dataclass

from segctl.errors import SegctlError
from segctl.model.policy import Tags

from segctl_controller.errors import ForbiddenError, InvalidRequestError
from segctl_controller.names import checked_tags
from segctl_controller.store.records import Entry, Role


@dataclass(frozen=True, slots=True)
class Principal:
    """`name` is what the audit log and the history call it: an operator's name, `token/NAME` or `oidc/NAME`, which can
    be no operator's. `identity` is what it showed (certificate SERIAL, api-token ID, oidc SUBJECT), good until
    `until_us`; `peer` is where it came from. `scopes` are those of an owner, and empty for every other role."""

    name: str
    role: Role
    identity: str
    peer: str
    scopes: tuple[Tags, ...] = ()
    until_us: int = 0

    def entry(self, at_us: int, action: str, subject: str, detail: str = "") -> Entry:
        """What the audit log says of something it did."""
        return Entry(at_us, self.name, action, subject, detail, identity=self.identity, peer=self.peer)

    def require(self, need: Role) -> None:
        """Raises ForbiddenError without the role."""
        if self.role.rank < need.rank:
            raise ForbiddenError(
                f"this needs the role {need.value}; {self.name!r} has the role {self.role.value}; ask an "
                "administrator to do it, or to give you the role"
            )


def checked_scope(role: Role, scope: Tags) -> Tags:
    """Owners have a scope and nobody else does. Raises InvalidRequestError."""
    if role is Role.OWNER and not scope.pairs:
        raise InvalidRequestError("an owner needs a scope: the tags of its part of the fleet, such as app=shop")
    if role is not Role.OWNER and scope.pairs:
        raise InvalidRequestError(
            f"a scope bounds what an owner may change; the role {role.value} is fleet-wide (reading is for every role)"
        )
    return checked_tags(dict(scope.pairs), None)


def parse_scope(texts: tuple[str, ...]) -> Tags:
    """KEY=VALUE, each once. Raises SegctlError."""
    pairs = [text.partition("=")[::2] for text in texts]
    if len(dict(pairs)) != len(pairs) or not all(key and value for key, value in pairs):
        raise SegctlError(f"scope {', '.join(texts)}: write KEY=VALUE, each key once")
    return Tags.of(pairs)
