"""`segctl-controller doctor`: looks at a controller's machine and changes nothing.

What it means is decided by functions without I/O, named `judge_...`.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from segctl.doctor import Check, Diagnosis, Finding, examine, ok, problem, unknown, warning
from segctl.errors import StateError
from segctl.machine import look_clock, look_journal, look_space, look_units
from segctl.statuspage import Where

from segctl_controller.authority import certificate_end
from segctl_controller.config import DATABASE_FILE, Config, Web, load_config
from segctl_controller.database import where_is
from segctl_controller.doctor_postgres import look_postgres
from segctl_controller.rotation import CaSet, Stage, load_cas
from segctl_controller.store.conninfo import PASSFILE
from segctl_controller.web.tls import OfFiles

SOON = timedelta(days=60)
SOON_OF_OTHERS = timedelta(days=14)
"""Of a certificate that another CA gave: many of those hold for 90 days and are renewed a month before."""
SECONDS = 3.0
PRIVATE = ("ca.key", "ca-next.key", PASSFILE, DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm")


def diagnose(state: Path, metrics: Where | None) -> Diagnosis:
    if not state.is_dir():
        init = "segctl init --name NAME, or name the folder with --state"
        return Diagnosis("this machine", (problem("state", f"there is no controller in {state}", init),))
    if not os.access(state, os.R_OK | os.X_OK):
        text = f"{state} is not for you to read"
        return Diagnosis("this machine", (unknown("state", text, "run it as root, or as the controller's user"),))
    try:
        config = load_config(state)
    except StateError as error:
        return Diagnosis("this controller", (problem("config", str(error), "restore controller.json from a backup"),))
    checks: list[tuple[str, Check]] = [
        ("state", lambda: look_modes(state)),
        ("disk", lambda: look_space(state)),
        ("ca", lambda: look_authority(state, config, datetime.now(UTC))),
        ("database", lambda: look_store(state)),
        ("clock", look_clock),
        ("units", lambda: look_units("segctl-controller.service")),
        ("journal", look_journal),
        ("port", lambda: look_port("port", state, config, config.port, datetime.now(UTC))),
        ("enrol-port", lambda: look_port("enrol-port", state, config, config.enrol_port, datetime.now(UTC))),
        ("ready", lambda: look_ready(metrics)),
    ]
    api, web = config.api_port, config.web
    if api is not None:
        checks.append(("api-port", lambda: look_port("api-port", state, config, api, datetime.now(UTC))))
    if web is not None:
        checks.append(("web-port", lambda: look_web(state, config, web, datetime.now(UTC))))
    return examine(f"controller of the fleet {config.fleet}", checks)


def look_modes(state: Path) -> Iterator[Finding]:
    top = state.stat()
    found = {p.name: p.lstat() for p in state.iterdir()}
    private = {n: stat.S_IMODE(s.st_mode) for n, s in found.items() if n in PRIVATE}
    yield from judge_modes(
        str(state), stat.S_IMODE(top.st_mode), private, [n for n, s in found.items() if s.st_uid != top.st_uid]
    )


def judge_modes(path: str, mode: int, private: dict[str, int], strangers: list[str]) -> Iterator[Finding]:
    """`private` are the modes of what only the owner may read; `strangers` what belongs to another user."""
    open_files = [name for name, found in private.items() if found & 0o077]
    if mode & 0o077 or open_files:
        what = ", ".join([*([path] if mode & 0o077 else []), *open_files])
        text = f"open to others: {what}. Whoever has the CA's key can be any host, and the controller"
        yield problem("state", text, f"chmod -R go= {path}; if somebody may have read it, make a new fleet")
    elif strangers:
        text = f"{', '.join(sorted(strangers)[:3])} in {path}: of another user, so the controller may fail on it"
        yield problem("state", text, f"chown -hR --reference={path} {path}")
    else:
        yield ok("state", f"{path} belongs to its owner and to nobody else")


def look_authority(state: Path, config: Config, now: datetime) -> Iterator[Finding]:
    try:
        cas = load_cas(state, config.fleet)
    except StateError as error:
        yield problem("ca", str(error), "restore the CA's files from a backup")
        return
    yield from judge_cas(cas, now)


def judge_cas(cas: CaSet, now: datetime) -> Iterator[Finding]:
    then = "segctl-controller ca rotate: hosts take the next one as they renew, while this one holds"
    yield from judge_end("ca", "the fleet's CA", cas.current.ends, now, then)
    if cas.next is None:
        return
    yield from judge_end(
        "ca", "the next CA", cas.next.ends, now, "segctl-controller ca cancel, and rotate to another one"
    )
    step = "activate" if cas.stage is Stage.PREPARED else "retire"
    text = f"the CA is rotated: {cas.stage}; {step} is the next step"
    yield warning("ca", text, "segctl-controller ca status says what it waits for")


def judge_end(
    check: str, what: str, end: datetime, now: datetime, then: str, soon: timedelta = SOON
) -> Iterator[Finding]:
    if end <= now:
        yield problem(check, f"{what} expired at {end:%Y-%m-%d %H:%M} UTC; the clock says {now:%Y-%m-%d %H:%M}", then)
    elif end - now < soon:
        yield warning(check, f"{what} ends in {(end - now).days} days", then)
    else:
        yield ok(check, f"{what} ends {end:%Y-%m-%d}")


def look_store(state: Path) -> Iterator[Finding]:
    where = where_is(state)
    yield from look_database(state / DATABASE_FILE) if where is None else look_postgres(where)


def look_database(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield problem("database", f"{path} is missing", "restore it from a backup of the state folder")
        return
    yield from judge_database(str(path), quick_check(path), path.stat().st_size)


def quick_check(path: Path) -> str:
    """`ok`, or what is broken. A database that nobody has open is read as it lies there: to open it in WAL mode would
    make files beside it, of whoever looks (https://sqlite.org/wal.html#readonly)."""
    wal = path.with_name(path.name + "-wal")
    how = "mode=ro" if wal.exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=SECONDS)) as connection:
            return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)


def judge_database(path: str, checked: str, size: int) -> Iterator[Finding]:
    if checked == "ok":
        yield ok("database", f"{path} is whole, {size / 1e6:.1f} MB")
    else:
        then = "stop the controller, keep a copy, restore the last backup; or: sqlite3 controller.db .recover"
        yield problem("database", f"{path} is damaged: {checked}", then)


def look_port(check: str, state: Path, config: Config, port: int, now: datetime) -> Iterator[Finding]:
    """The certificate that is shown there. Without one of our own the connection is refused after that."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.listen, config.listen)  # noqa: S104 - what it listens on
    where = Where(host, port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=load_cas(state, config.fleet).pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), SECONDS) as link,
            context.wrap_socket(link, server_hostname=config.names[0]) as secured,
        ):
            shown = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        text = f"{where} shows a certificate that is not of this controller: {error.verify_message}"
        yield problem(check, text, f"ss -ltnp 'sport = :{port}' shows which program it is")
        return
    except OSError as error:
        text = f"nothing answers at {where}: {error.strerror or error}"
        yield problem(check, text, "systemctl start segctl-controller; journalctl -u segctl-controller -n 50")
        return
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    then = "systemctl restart segctl-controller: it makes a new one at each start"
    yield from judge_end(check, f"{where} answers; its certificate", end, now, then)


def look_web(state: Path, config: Config, web: Web, now: datetime) -> Iterator[Finding]:
    if not web.certificate:
        yield from look_port("web-port", state, replace(config, listen=web.listen), web.port, now)
        return
    try:
        OfFiles(Path(web.certificate), Path(web.key))
    except StateError as error:
        yield problem("web-port", str(error), "openssl x509 -noout -text -in the certificate; then restart")
        return
    end = certificate_end(Path(web.certificate).read_bytes())
    yield from judge_end("web-port", web.certificate, end, now, "renew it where it comes from", SOON_OF_OTHERS)


def look_ready(metrics: Where | None) -> Iterator[Finding]:
    if metrics is None:
        yield unknown("ready", "its pages for monitoring are off")
        return
    try:
        with socket.create_connection((metrics.host, metrics.port), SECONDS) as link:
            link.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while len(answer) < 65536 and (more := link.recv(4096)):
                answer += more
    except OSError as error:
        yield unknown("ready", f"nothing answers at {metrics}: {error.strerror or error}")
        return
    head, _, body = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    yield from judge_ready(head.split("\r\n")[0], body)


def judge_ready(status: str, body: str) -> Iterator[Finding]:
    """`status` is the first line of the answer of /readyz."""
    if " 200 " in f"{status} ":
        yield ok("ready", "it compiles policies, and its database takes writes")
    elif " 503 " in status:
        reasons = "; ".join(body.split("\n")[:5]).strip("; ")
        yield problem("ready", reasons, "journalctl -u segctl-controller -n 50; df -h on its state folder")
    else:
        yield warning("ready", f"another program answers: {status[:80]!r}", "name the right port with --metrics")
