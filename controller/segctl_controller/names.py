"""Rules for names and tags that come in over the wire."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from segctl.model.policy import Network, Policy, Tags

from segctl_controller.config import parse_address
from segctl_controller.errors import InvalidRequestError

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
TAG_KEY = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
TAG_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
MOST_TAGS = 64
MOST_NETWORKS = 256


def checked_name(text: str, what: str) -> str:
    """A host's or an operator's name. Raises InvalidRequestError."""
    if not NAME.fullmatch(text) or parse_address(text) is not None:
        raise InvalidRequestError(
            f"{what} {text[:80]!r} is not a name: lower-case letters, digits, dots, dashes and underscores, at most "
            "63 characters, beginning and ending with a letter or digit, and not an address"
        )
    return text


def checked_tags(tags: Mapping[str, str], policy: Policy | None) -> Tags:
    """Well-formed tags, and where a policy is active, tags that it declares. Raises InvalidRequestError."""
    if len(tags) > MOST_TAGS:
        raise InvalidRequestError(f"{len(tags)} tags are too many: at most {MOST_TAGS}")
    for key, value in sorted(tags.items()):
        if not TAG_KEY.fullmatch(key) or not TAG_VALUE.fullmatch(value):
            raise InvalidRequestError(f"tag {key[:80]}={value[:80]} is malformed: a tag is key=value of plain words")
        if policy is None:
            continue
        declared = policy.tags.get(key)
        if declared is None:
            known = ", ".join(sorted(policy.tags)) or "none"
            raise InvalidRequestError(
                f"tag key {key!r} is not declared by the active policy (declared: {known}); declare it under tags: "
                "and push first"
            )
        if value not in declared:
            raise InvalidRequestError(
                f"tag {key}={value} is not declared by the active policy (declared: {', '.join(declared)}); declare "
                "the value under tags: and push first"
            )
    return Tags.of(tags)


def checked_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise InvalidRequestError(f"network {text[:80]!r}: {error}; write it like 10.1.0.0/16") from error
    if len(found) > MOST_NETWORKS:
        raise InvalidRequestError(f"{len(found)} networks are too many: at most {MOST_NETWORKS}")
    return tuple(found)
