"""This host's own addresses, and each change of them.

A bare rtnetlink socket says that something changed; what is true then comes from a dump through pyroute2. A lost
notice (ENOBUFS) is one more reason to dump, so nothing is ever pieced together from events.

Once imported, pyroute2 keeps 11 MB for good (dropping its modules and importing them again leaks 4 MB a time). So the
dump is made by a short-lived process that runs this module: it prints the addresses, one a line.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

from segctl.errors import KernelError

from segctl_agent.facts.values import Address

log = logging.getLogger(__name__)

# linux/rtnetlink.h (groups) and linux/if_addr.h (flags)
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100
IFA_F_OPTIMISTIC = 0x04
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40

_NOTICES_PER_WAKE = 256
_PACE_SECONDS = 1.0
"""Between two dumps, each of which costs a quarter of a second of CPU: hosts with containers make storms of notices."""
_PATIENCE_SECONDS = 20.0


class AddressWatcher:
    """Follows the addresses of this network namespace, loopback and link-local included. An IPv6 address counts once
    duplicate address detection is through."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_change: Callable[[frozenset[Address]], None] | None = None
        self._known: frozenset[Address] = frozenset()
        self._refreshing: asyncio.Task[None] | None = None
        self._again = False

    def current(self) -> frozenset[Address]:
        """A dump of what holds now, about 0.3 s; inside a running loop too. KernelError when it cannot be had."""
        with ThreadPoolExecutor(1, "addresses") as thread:
            return thread.submit(lambda: asyncio.run(_dump())).result()

    def start(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[frozenset[Address]], None]) -> None:
        """Call `on_change` with every address there is: once soon, then whenever they differ from what it was last
        told."""
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            notices.setblocking(False)
            notices.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        except OSError as error:
            notices.close()
            raise KernelError(f"cannot follow this host's addresses through rtnetlink: {error.strerror}") from error
        self._socket, self._loop, self._on_change = notices, loop, on_change
        loop.add_reader(notices.fileno(), self._notice)
        self._refresh_soon()

    def close(self) -> None:
        if self._socket is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._socket.close()
        self._socket = self._loop = self._on_change = self._refreshing = None

    def _notice(self) -> None:
        assert self._socket is not None
        for _ in range(_NOTICES_PER_WAKE):
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        """One dump at a time; a notice during a dump asks for another one after it."""
        assert self._loop is not None
        if self._refreshing is not None and not self._refreshing.done():
            self._again = True
        else:
            self._refreshing = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            try:
                found = await _dump()
            except KernelError as error:
                log.warning("%s; it is tried again", error)
                self._again = True
            else:
                if found != self._known and self._on_change is not None:
                    self._known = found
                    self._on_change(found)
            await asyncio.sleep(_PACE_SECONDS)


def known_addresses(watcher: AddressWatcher) -> frozenset[Address]:
    """What holds now, or nothing when it cannot be had: the rules must not wait for it, since they name an own address
    only where the controller is on this host."""
    try:
        return watcher.current()
    except KernelError as error:
        log.error("%s; the rules go in force without this host's addresses", error)
        return frozenset()


async def _dump() -> frozenset[Address]:
    """Asks a process of its own; it ends with the wait for it. KernelError when it fails."""
    # -P: what lies in the working directory is none of our modules.
    command = (sys.executable, "-P", "-m", __spec__.name)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise KernelError(f"cannot start {sys.executable} to read this host's addresses: {error.strerror}") from error
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise KernelError(f"reading this host's addresses took over {_PATIENCE_SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()  # the loop may end next, and must not leave its pipes open
    if process.returncode != 0:
        reason = err.decode(errors="replace").strip().splitlines()
        raise KernelError(reason[-1] if reason else f"reading this host's addresses ended with {process.returncode}")
    return parse_told(out)


def parse_told(out: bytes) -> frozenset[Address]:
    """What the process wrote: addresses, one a line. Raises KernelError for anything else."""
    try:
        return frozenset(ip_address(line) for line in out.decode("ascii").split())
    except ValueError as error:
        raise KernelError(f"reading this host's addresses gave something else: {error}") from error


async def _read() -> frozenset[Address]:
    from pyroute2 import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        async with AsyncIPRoute() as route:
            return usable([message async for message in await route.get_addr()])
    except (NetlinkError, OSError) as error:
        raise KernelError(f"cannot read this host's addresses through rtnetlink: {error}") from error


def usable(messages: Iterable[Mapping[str, Any]]) -> frozenset[Address]:
    """The addresses of RTM_NEWADDR messages as pyroute2 decodes them, without those that IPv6 does not let be used
    yet (tentative and not optimistic) or any more (duplicate)."""
    found = set()
    for message in messages:
        attributes = dict(message["attrs"])
        flags = attributes.get("IFA_FLAGS", message["flags"])
        if flags & IFA_F_DADFAILED or (flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC):
            continue
        # IFA_LOCAL is our end of a point-to-point link, IFA_ADDRESS then the other one.
        text = attributes.get("IFA_LOCAL") or attributes.get("IFA_ADDRESS")
        if text:
            found.add(ip_address(text))
    return frozenset(found)


def _main() -> int:
    try:
        found = asyncio.run(_read())
    except KernelError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(sorted(map(str, found))))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
