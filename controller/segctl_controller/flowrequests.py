"""What operators' questions about flows have in common: spans of time, services, and ends of edges, checked."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from segctl.model.policy import ANY_PEER
from segctl.model.processes import MAX_IDENTITY
from segctl.proto.v1 import admin_pb2

from segctl_controller.errors import InvalidRequestError, NotFoundError
from segctl_controller.flowstore.outside import Peers
from segctl_controller.flowstore.records import EndFilter
from segctl_controller.flowstore.wire import PROTOCOLS, remotes_of

LONGEST_NAME = 64
LATEST = 2**62


def span_of(since_us: int, until_us: int) -> tuple[int, int]:
    """Raises InvalidRequestError."""
    if since_us < 0 or until_us < 0:
        raise InvalidRequestError("since_us or until_us is out of bounds")
    return min(since_us, LATEST), min(until_us, LATEST)


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Of an address, too. Raises InvalidRequestError."""
    try:
        return ip_network(text[:64], strict=False)
    except ValueError as error:
        raise InvalidRequestError(f"{text[:64]!r} is neither an address nor a network such as 10.0.0.0/8") from error


def protocol_of(text: str) -> int:
    """Raises InvalidRequestError."""
    number = PROTOCOLS.get(text) or (int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1)
    if not 0 <= number <= 255:
        raise InvalidRequestError(f"no protocol {text[:40]!r}: {', '.join(PROTOCOLS)}, or a number up to 255")
    return number


def ends_of(
    request: admin_pb2.FlowsRequest | admin_pb2.FlowMapRequest, peers: Peers
) -> tuple[EndFilter | None, EndFilter | None]:
    """Source and destination; None: whoever it is. Raises like `end_of`."""
    source = end_of(request.source, "source", peers) if request.HasField("source") else None
    return source, end_of(request.destination, "destination", peers) if request.HasField("destination") else None


def end_of(group: admin_pb2.TagGroup, name: str, peers: Peers) -> EndFilter:
    """An end of an edge as it was told. Of addresses outside, the peer ANY_PEER stands for all of them. Raises
    InvalidRequestError, NotFoundError for a peer that the policy does not have."""
    texts: Iterable[str] = (*group.tags, *group.tags.values(), group.peer, group.network, group.host, group.workload)
    if max(len(group.tags), *map(len, texts)) > LONGEST_NAME or len(group.process) > MAX_IDENTITY:
        raise InvalidRequestError(f"{name} has at most {LONGEST_NAME} tags, and names of {LONGEST_NAME} characters")
    outside = group.outside or bool(group.peer or group.network)
    if outside and (group.tags or group.host or group.workload or group.process):
        raise InvalidRequestError(f"{name} is a group of hosts, or outside, and not both")
    if not outside:
        return EndFilter(tuple(sorted(group.tags.items())), group.host, group.workload, group.process)
    places = None if group.peer == ANY_PEER else peers.places(group.peer)
    if group.peer and places is not None and not places:
        raise NotFoundError(f"the policy has no peer {group.peer!r} with addresses of its own")
    block = remotes_of(network_of(group.network)) if group.network else None
    return EndFilter(outside=True, places=places, block=block)
