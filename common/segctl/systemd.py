"""Talking to systemd: sd_notify(3) over the datagram socket that NOTIFY_SOCKET names. Without one, nothing is sent."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """READY, RELOADING, STOPPING, STATUS and WATCHDOG to the service manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract socket (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_us = _number(environment.get("WATCHDOG_USEC", "0"))
        pid = environment.get("WATCHDOG_PID", "")
        if pid and _number(pid) != os.getpid():
            self._watchdog_us = 0

    @property
    def watchdog_seconds(self) -> float | None:
        """How often to call `watchdog`: half of what the unit allows. None: the unit has no watchdog."""
        return self._watchdog_us / 2e6 if self._watchdog_us else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self, status: str) -> None:
        """To be followed by `ready` (Type=notify-reload asks for the time, systemd.service(5))."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as link:
            try:
                link.sendto(message.encode(), self._address)
            except (BlockingIOError, ConnectionRefusedError, FileNotFoundError):
                return  # the manager is restarting; it asks nothing of a service that it cannot hear


def _line(text: str) -> str:
    return " ".join(text.split())


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
