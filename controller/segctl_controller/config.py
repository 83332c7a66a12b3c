"""What `init` writes and `run` reads: DIR/controller.json."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from segctl.errors import StateError

from segctl_controller.flowstore.records import FlowLimits

CONFIG_FILE = "controller.json"
DATABASE_FILE = "controller.db"
FLOWS_FILE = "flows.duckdb"
LONGEST_DAYS = 825
SCOPES = ("openid", "profile", "offline_access")


@dataclass(frozen=True, slots=True)
class Oidc:
    """The OpenID provider whose users may sign in. `client_id` is the audience of its ID tokens; the claims say which
    groups a user is in, and what the user is called."""

    issuer: str
    client_id: str
    groups_claim: str = "groups"
    name_claim: str = "preferred_username"
    scopes: tuple[str, ...] = SCOPES


@dataclass(frozen=True, slots=True)
class Web:
    """Where the web UI is. `names` are those by which browsers reach it beside the controller's own: they are in its
    certificate, and a request for any other is refused. `certificate` and `key` are files (PEM) of one that browsers
    trust; empty: the controller makes its own."""

    port: int
    listen: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """`listen` is an address to bind; `names` are how agents and operators reach the controller (DNS or IP).
    Certificates of hosts hold for `host_certificate_days`, a fraction of a day at least; a file that does not say is of
    a fleet that was made with 90. One that ended is exchanged for `host_certificate_grace_days` more; 0: never.
    `database` is how to reach PostgreSQL, in libpq's words and without a password; empty: SQLite, beside this file.
    Flows are kept by the minute for `flow_minute_hours`, then by the hour, until they are `flow_days` old, or more than
    `flow_rows` or `flow_megabytes`."""

    fleet: str
    listen: str
    names: tuple[str, ...]
    port: int = 7443
    enrol_port: int = 7444
    heartbeat_seconds: int = 10
    host_certificate_days: float = 90
    database: str = ""
    host_certificate_grace_days: float = 30
    api_port: int | None = None
    """Where a token instead of a client certificate is taken; None: nowhere."""
    oidc: Oidc | None = None
    flow_days: int = 30
    flow_minute_hours: int = 24
    flow_rows: int = 20_000_000
    flow_megabytes: int = 4096
    web: Web | None = None
    """The web UI; None: there is none."""

    @property
    def web_names(self) -> tuple[str, ...]:
        """How browsers may reach it: on the loopback also as localhost, which is how it is with `ssh -L`."""
        if self.web is None:
            return ()
        where = parse_address(self.web.listen)
        own = ("localhost", "127.0.0.1", "::1") if where is not None and where.is_loopback else ()
        return tuple(dict.fromkeys((*self.names, *self.web.names, *own)))

    @property
    def flow_limits(self) -> FlowLimits:
        return FlowLimits(self.flow_rows, self.flow_megabytes, self.flow_days, self.flow_minute_hours)

    @property
    def host_life(self) -> timedelta:
        return timedelta(days=self.host_certificate_days)

    @property
    def host_grace(self) -> timedelta:
        return timedelta(days=self.host_certificate_grace_days)

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The controller's own addresses, as far as its configuration tells them."""
        found = (parse_address(name) for name in (*self.names, self.listen))
        return tuple(dict.fromkeys(a for a in found if a and not (a.is_unspecified or a.is_loopback)))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def endpoint(host: str, port: int) -> str:
    """host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _oidc(fields: object) -> Oidc | None:
    """Raises ValueError or TypeError."""
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise ValueError("oidc must be an object with issuer and client_id")
    found = Oidc(**{**fields, "scopes": tuple(fields.get("scopes", SCOPES))})
    texts = (found.issuer, found.client_id, found.groups_claim, found.name_claim, *found.scopes)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("oidc: issuer, client_id, groups_claim, name_claim and scopes must be texts")
    if not found.issuer.startswith("https://"):
        raise ValueError("oidc: the issuer must be an https address")
    return found


def _web(fields: object) -> Web | None:
    """Raises ValueError or TypeError."""
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise ValueError("web must be an object with port, and listen and names where those are to differ")
    found = Web(**{**fields, "names": tuple(fields.get("names", ()))})
    if type(found.port) is not int or not 0 <= found.port <= 65535:
        raise ValueError("web: port must be a port")
    if not isinstance(found.listen, str) or parse_address(found.listen) is None:
        raise ValueError("web: listen must be an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::")
    if not all(isinstance(name, str) and name for name in found.names):
        raise ValueError("web: names must be texts")
    if not all(isinstance(name, str) and name[:1] in ("", "/") for name in (found.certificate, found.key)):
        raise ValueError("web: certificate and key must be whole names of files")
    if bool(found.certificate) != bool(found.key):
        raise ValueError("web: certificate and key belong together")
    return found


def save_config(directory: Path, config: Config) -> None:
    (directory / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")


def config_text(config: Config) -> str:
    return json.dumps(asdict(config), indent=2) + "\n"


def load_config(directory: Path) -> Config:
    """Raises StateError that names the file and the mend."""
    path = directory / CONFIG_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        oidc, web = _oidc(fields.get("oidc")), _web(fields.get("web"))
        config = Config(**{**fields, "names": tuple(str(n) for n in fields["names"]), "oidc": oidc, "web": web})
        numbers = (config.port, config.enrol_port, config.heartbeat_seconds)
        if not all(isinstance(n, int) and 0 <= n <= 65535 for n in numbers) or config.heartbeat_seconds < 1:
            raise ValueError("port, enrol_port and heartbeat_seconds must be whole numbers in range")
        if config.api_port is not None and not (type(config.api_port) is int and 0 <= config.api_port <= 65535):
            raise ValueError("api_port must be a port, or null")
        if oidc is not None and config.api_port is None and web is None:
            raise ValueError("oidc needs an api_port or web, where people sign in")
        days, grace = config.host_certificate_days, config.host_certificate_grace_days
        if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= LONGEST_DAYS:
            raise ValueError(f"host_certificate_days must be a number above 0 and at most {LONGEST_DAYS}")
        if not isinstance(config.database, str):
            raise ValueError("database must be text")
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= LONGEST_DAYS:
            raise ValueError(f"host_certificate_grace_days must be a number from 0 to {LONGEST_DAYS}")
        bounds = (config.flow_rows, config.flow_megabytes, config.flow_days, config.flow_minute_hours)
        if not all(type(n) is int and n >= 1 for n in bounds) or config.flow_days > LONGEST_DAYS:
            raise ValueError("flow_days, flow_minute_hours, flow_rows and flow_megabytes must be whole numbers from 1")
    except FileNotFoundError as error:
        raise StateError(
            f"{path}: no controller here; run: segctl-controller init --state {directory}; or restore a backup: "
            f"segctl-controller restore --from BACKUP --state {directory} --replace"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(
            f"{path}: cannot be used: {error}; mend the file, or restore a backup: "
            f"segctl-controller restore --from BACKUP --state {directory} --replace"
        ) from error
    return config
