"""How to reach PostgreSQL: `database` of controller.json, in libpq's words
(https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING), and a password that is not among them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from segctl.errors import StateError

PASSFILE = "pgpass"
"""In the state directory, for the user that the controller runs as, mode 0600: HOST:PORT:DATABASE:USER:PASSWORD."""
CREDENTIAL = "database-password"
"""Of systemd. libpq would not take it as a passfile: the unit's user may read it by an ACL, which looks like 0440."""
SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
LONGEST_PASSWORD = 4096
DEFAULTS = {
    "application_name": "segctl-controller",
    "client_encoding": "UTF8",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""A server that is gone is noticed within 10 s or so, and not after TCP's quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Conninfo:
    """`parameters` are what libpq gets; they may hold a password, so no message shows them."""

    name: str
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def remote(self) -> bool:
        """Whether some server is reached over a network, and not by a socket or on this machine."""
        return any(not _local(host) for host in _hosts(self.parameters))

    @property
    def verified(self) -> bool:
        """Whether the server proves who it is."""
        return self.parameters.get("sslmode", "") == "verify-full"


def parse_conninfo(text: str, directory: Path, environment: Mapping[str, str] = os.environ) -> Conninfo:
    """Of a URL or a conninfo string. Raises StateError for one that is none or holds a secret, for a password file that
    others may read, and when the driver is not installed."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise StateError(
            f"PostgreSQL needs a driver that is not installed: pip install 'segctl[postgres]' ({error})"
        ) from error
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(text).items() if value is not None}
        if "PGHOST" in environment and not given.keys() & {"host", "hostaddr", "service"}:
            given["host"] = environment["PGHOST"]
    except ProgrammingError as error:
        raise StateError("the database is given neither as a postgresql:// URL nor as words like host=db1") from error
    secrets = [name for name in SECRETS if name in given]
    if secrets:
        raise StateError(
            f"the database is given with a {secrets[0]}, which has no place there: write the line "
            f"HOST:PORT:DATABASE:USER:PASSWORD to {directory / PASSFILE} (mode 0600, of the controller's user)"
        )
    found = {**DEFAULTS, **given}
    if "sslmode" not in given and "PGSSLMODE" not in environment and any(not _local(h) for h in _hosts(given)):
        found["sslmode"] = "verify-full"
    found.update(_password(given, directory, environment))
    return Conninfo(_name(given), found)


def _password(given: Mapping[str, str], directory: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What of it the parameters do not say already. Raises StateError."""
    passfile = Path(given.get("passfile") or environment.get("PGPASSFILE") or directory / PASSFILE)
    credential = Path(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / CREDENTIAL
    try:
        if credential.is_file():
            with credential.open(encoding="utf-8") as file:
                return {"password": file.read(LONGEST_PASSWORD).rstrip("\n")}
        if not passfile.is_file():
            return {}
        if stat.S_IMODE(passfile.stat().st_mode) & 0o077:
            raise StateError(f"{passfile}: is open to others, so its passwords are not used; chmod 600 {passfile}")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"the password of the database cannot be read: {error}") from error
    return {"passfile": str(passfile)}


def _hosts(given: Mapping[str, str]) -> list[str]:
    return [host for host in (given.get("host") or given.get("hostaddr") or "").split(",") if host]


def _local(host: str) -> bool:
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _name(given: Mapping[str, str]) -> str:
    if "service" in given:
        return f"PostgreSQL service {given['service']}"
    database = given.get("dbname") or given.get("user") or "of its default name"
    return f"PostgreSQL database {database} at {given.get('host') or given.get('hostaddr') or 'this machine'}"
