"""The way to the controllers: names, TCP, TLS, and whether the agent has its session."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segctl.doctor import Finding, ok, problem, unknown, warning

from segctl_agent.credentials import FOLDER, Identity
from segctl_agent.endpoints import load_remembered, look_up, resolve_endpoints

SECONDS = 3.0
ALERT_SECONDS = 0.5
"""With TLS 1.3 a refused certificate is told after the handshake."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What became of a connection: `step` is where it ended (name, tcp, tls) or `done`; `why` what was said."""

    controller: str
    step: str
    why: str = ""


def look(state: Path, identity: Identity, status: dict[str, Any]) -> Iterator[Finding]:
    """The agent's uid opens the connection, for the policy may let nobody else pass."""
    resolved = resolve_endpoints(identity.controllers, {}, look_up)
    remembered = load_remembered(state)
    uid = state.stat().st_uid
    for controller, addresses in resolved.items():
        if not addresses and remembered.get(controller):
            text = (
                f"{controller.rpartition(':')[0]} does not resolve; the agent goes on with {remembered[controller][0]}"
            )
            yield warning("controller", text, f"getent hosts {controller.rpartition(':')[0]}; mend the name service")
            addresses = remembered[controller]
        reached = reach(state / FOLDER, controller, addresses, uid)
        yield from judge_reached(reached, str(status.get("controller") or ""), str(status.get("problem") or ""))
    yield from judge_session(str(status.get("controller") or ""), str(status.get("problem") or ""))


def judge_reached(reached: Reached, session: str, complaint: str) -> Iterator[Finding]:
    host, port = reached.controller.rpartition(":")[::2]
    if reached.step == "done":
        yield ok("controller", f"{reached.controller} answers, and takes this host's certificate")
    elif session == reached.controller:
        text = f"{reached.controller}: the agent is connected; another connection did not come about: {reached.why}"
        yield ok("controller", text)
    elif reached.step == "name":
        then = f"getent hosts {host}; mend the name service, or /etc/hosts"
        yield problem("controller", f"{host} does not resolve, and no address of it is remembered", then)
    elif reached.step == "tcp":
        text = f"{reached.controller} cannot be reached: {reached.why}"
        then = f"on the controller: systemctl status segctl-controller; on the way: who drops TCP port {port}?"
        yield problem("controller", text, then)
    else:
        text = f"{reached.controller} answers, but TLS fails: {reached.why}"
        then = complaint or "is it the controller of this fleet? If it was made anew: enrol with --replace"
        yield problem("controller", text, then)


def judge_session(session: str, complaint: str) -> Iterator[Finding]:
    if session:
        yield ok("session", f"with {session}")
    elif complaint:
        yield problem("session", complaint, "journalctl -u segctl-agent -n 20; nothing is lost meanwhile")
    else:
        yield unknown("session", "the agent has not said whether it has one")


def reach(identity: Path, controller: str, addresses: list[str], uid: int) -> Reached:
    """Tries each address until one answers."""
    if not addresses:
        return Reached(controller, "name")
    host, _, port = controller.rpartition(":")
    last = Reached(controller, "tcp", "no address")
    for address in addresses:
        try:
            with _as_user(uid):
                link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            return Reached(controller, "tcp", error.strerror or str(error))
        with link:
            link.settimeout(SECONDS)
            try:
                link.connect((address, int(port)))
            except OSError as error:
                last = Reached(controller, "tcp", f"{address}: {error.strerror or error}")
                continue
            return _handshake(identity, controller, host.strip("[]"), link)
    return last


def _handshake(identity: Path, controller: str, host: str, link: socket.socket) -> Reached:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cafile=str(identity / "ca.pem"))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        with context.wrap_socket(link, server_hostname=host) as secured:
            secured.settimeout(ALERT_SECONDS)
            with suppress(TimeoutError):
                secured.recv(1)
    except ssl.SSLCertVerificationError as error:
        return Reached(controller, "tls", f"its certificate is not of this fleet: {error.verify_message}")
    except (ssl.SSLError, OSError) as error:
        return Reached(controller, "tls", getattr(error, "reason", None) or error.strerror or str(error))
    return Reached(controller, "done")


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """A socket belongs to the effective user of its making: that is what the kernel's rules look at."""
    before = os.geteuid()
    if before != 0 or uid == 0:
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)
