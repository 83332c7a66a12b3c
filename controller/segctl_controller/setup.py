"""A new controller's state directory, and the credentials of its operators."""

from __future__ import annotations

import json
from pathlib import Path

from segctl.errors import StateError
from segctl.model.policy import Tags

from segctl_controller.authority import Authority, Credential, new_fleet_id, write_private
from segctl_controller.clock import Clock
from segctl_controller.config import CONFIG_FILE, DATABASE_FILE, Config, endpoint, load_config, save_config
from segctl_controller.database import create_database, open_store
from segctl_controller.errors import InvalidRequestError, NotFoundError
from segctl_controller.externalca import external_authority
from segctl_controller.names import checked_name
from segctl_controller.principal import checked_scope
from segctl_controller.rotation import CaSet, load_cas
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import Entry, GroupRecord, OperatorRecord, Role
from segctl_controller.store.refusals import no_operator

__all__ = [
    "add_operator",
    "create_controller",
    "map_group",
    "open_store",
    "remove_operator",
    "renew_operator",
    "unmap_group",
    "write_client",
]

LONGEST_GROUP = 256
NO_TAGS = Tags()
SHELL = "segctl-controller"
"""The actor of what is done on the controller's own machine."""


def create_controller(
    directory: Path,
    listen: str,
    names: tuple[str, ...],
    port: int,
    enrol_port: int,
    clock: Clock,
    heartbeat: int = 10,
    host_certificate_days: float = 1,
    database: str = "",
    api_port: int | None = None,
    external: tuple[Path, Path] | None = None,
) -> Config:
    """Make the directory, the CA, the database and the configuration. Raises StateError where one exists already.
    `database`: see Config. `external` are the files of the certificate and the key of a CA that is to be used instead
    of one of our own."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        present = [n for n in (CONFIG_FILE, DATABASE_FILE, "ca.key", "ca.pem") if (directory / n).exists()]
        if present:
            raise StateError(
                f"{directory}: there is a controller already ({', '.join(present)}); init never overwrites one: "
                "choose another --state, or move that directory away"
            )
        authority = new_authority(new_fleet_id(), names, external, clock)
        create_database(directory, database)
        authority.save(directory)
        config = Config(
            authority.fleet,
            listen,
            names,
            port,
            enrol_port,
            heartbeat,
            host_certificate_days=host_certificate_days,
            database=database,
            api_port=api_port,
        )
        # Last: a directory with this file is whole.
        save_config(directory, config)
    except OSError as error:
        raise StateError(f"{directory}: cannot be prepared: {error.strerror}; check owner and free space") from error
    return config


def new_authority(fleet: str, names: tuple[str, ...], external: tuple[Path, Path] | None, clock: Clock) -> Authority:
    """Raises StateError for an external CA (certificate file, key file) that does not fit."""
    if external is None:
        return Authority.create(fleet, clock.now())
    return external_authority(fleet, *external, names, clock.now())


def add_operator(
    directory: Path, store: Store, name: str, role: Role, out: Path, clock: Clock, scope: Tags = NO_TAGS
) -> None:
    """Write client.json, ca.pem, cert.pem and key.pem to `out`, and record the operator.

    Raises StateError when `out` holds credentials already, AlreadyExistsError when the name is taken.
    """
    checked_name(name, "the operator")
    scope = checked_scope(role, scope)
    config = load_config(directory)
    cas = load_cas(directory, config.fleet)
    credential = cas.signing.issue_operator(name, clock.now())
    created = clock.now_us()
    try:
        _prepare_out(out)
        entry = Entry(created, SHELL, "admin-add", f"operator {name}", _role_words(role, scope))
        store.add_operator(OperatorRecord(name, role, credential.serial, created, scope), entry)
        _write_credential(out, config, cas, credential, name)
    except OSError as error:
        raise StateError(f"{out}: the credentials cannot be written: {error.strerror}") from error


def map_group(store: Store, name: str, role: Role, scope: Tags, clock: Clock) -> None:
    """What the members of a group of the OpenID provider may do. Raises InvalidRequestError, AlreadyExistsError."""
    if not name.isprintable() or not 0 < len(name) <= LONGEST_GROUP:
        raise InvalidRequestError(f"a group is named by 1 to {LONGEST_GROUP} printable letters, as its claim says it")
    group = GroupRecord(name, role, checked_scope(role, scope))
    store.map_group(group, Entry(clock.now_us(), SHELL, "map-group", f"group {name}", _role_words(role, group.scope)))


def unmap_group(store: Store, name: str, clock: Clock) -> None:
    """Raises NotFoundError."""
    store.unmap_group(name, Entry(clock.now_us(), SHELL, "unmap-group", f"group {name}"))


def write_client(directory: Path, out: Path) -> None:
    """Write client.json and ca.pem to `out`, for whoever shows a token: they hold no secret. Raises StateError."""
    config = load_config(directory)
    if config.api_port is None:
        raise StateError(
            f'{directory / CONFIG_FILE}: has no api_port, where tokens are taken: add "api_port": 7446 and restart'
        )
    cas = load_cas(directory, config.fleet)
    try:
        _prepare_out(out)
        _write_public(out, config, cas, "")
    except OSError as error:
        raise StateError(f"{out}: cannot be written: {error.strerror}") from error


def _role_words(role: Role, scope: Tags) -> str:
    return f"role {role.value}" + (f" of {scope}" if scope.pairs else "")


def renew_operator(directory: Path, store: Store, name: str, out: Path, clock: Clock) -> None:
    """Write new credentials of an operator to `out`; those before end, and the role stays.

    Raises StateError when `out` holds credentials already, NotFoundError for an unknown name.
    """
    config = load_config(directory)
    cas = load_cas(directory, config.fleet)
    if store.operator(name) is None:
        raise NotFoundError(no_operator(name))
    credential = cas.signing.issue_operator(name, clock.now())
    try:
        _prepare_out(out)
        _write_credential(out, config, cas, credential, name)
    except OSError as error:
        raise StateError(f"{out}: the credentials cannot be written: {error.strerror}; the old ones hold") from error
    # Last: were it first, a full disk would leave the operator with nothing.
    store.renew_operator(name, credential.serial, Entry(clock.now_us(), SHELL, "admin-renew", f"operator {name}"))


def _prepare_out(out: Path) -> None:
    """Raises OSError, or StateError when something of another credential is there."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken = [n for n in ("client.json", "ca.pem", "cert.pem", "key.pem") if (out / n).exists()]
    if taken:
        raise StateError(f"{out}: holds {', '.join(taken)} already; choose another --out, or move them away")


def _write_credential(out: Path, config: Config, cas: CaSet, credential: Credential, name: str) -> None:
    write_private(out / "key.pem", credential.key)
    (out / "cert.pem").write_bytes(credential.certificate)
    _write_public(out, config, cas, name)


def _write_public(out: Path, config: Config, cas: CaSet, name: str) -> None:
    (out / "ca.pem").write_bytes(cas.pem)
    client = {"controller": endpoint(config.names[0], config.port), "fleet": config.fleet, "name": name}
    if config.api_port is not None:
        client["api"] = endpoint(config.names[0], config.api_port)
    (out / "client.json").write_text(json.dumps(client, indent=2) + "\n", encoding="utf-8")


def remove_operator(store: Store, name: str, clock: Clock) -> None:
    """Raises NotFoundError."""
    store.remove_operator(name, Entry(clock.now_us(), SHELL, "admin-remove", f"operator {name}"))
