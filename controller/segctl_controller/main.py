"""segctl-controller: init, run, doctor, backup, restore, join, migrate, move; and admin: operators, groups and client
files. What it does with the CA is in ca_commands.py."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from pathlib import Path

import click
from segctl import __version__, logs
from segctl.doctor import EXIT_PROBLEMS, document, lines, terminal_width
from segctl.errors import SegctlError
from segctl.statuspage import Where, parse_where
from segctl.systemd import Notifier

import segctl_controller.tls13  # noqa: F401 - first of ours: it must run before grpc is imported
from segctl_controller.admin_commands import admin
from segctl_controller.backup import join, restore, take_backup
from segctl_controller.ca_commands import CA_FILE, ca, external_files
from segctl_controller.clock import Clock
from segctl_controller.config import LONGEST_DAYS, load_config
from segctl_controller.database import look_schemas, migrate
from segctl_controller.doctor import diagnose
from segctl_controller.lock import alone
from segctl_controller.moving import move
from segctl_controller.names import checked_name
from segctl_controller.options import STATE
from segctl_controller.reload import describe_reload
from segctl_controller.server import open_controller
from segctl_controller.setup import (
    add_operator,
    create_controller,
    open_store,
)
from segctl_controller.store.records import Role

SERVING = "serving agents and operators"
SWITCH = 0.002
"""Seconds after which a thread that computes lets the event loop go on: Python's 5 ms add up, for the loop gives the
interpreter away at every look for input and every digest."""
STOPPED = "every host keeps enforcing what it has, and queues what it has to report"
log = logging.getLogger("segctl_controller")


POSTGRES = (
    "PostgreSQL, as a URL or in libpq's words, such as 'host=db1 user=segctl dbname=segctl'. No password: that is a "
    "line of the file pgpass in --state."
)
SQLITE = "sqlite"
"""What stands for the file in the state directory on the command line."""

AFTER_RESTORE = """\
- hosts go on enforcing what they have, and take no older generation: segctl status names those that hold a newer one;
  push again
- what was removed since the backup is back: remove those hosts, operators, groups and API tokens again
- hosts that were enrolled since are unknown: enrol them again, with segctl-agent enrol --replace
- join tokens were removed, since they may be used up or revoked by now: make new ones
next: systemctl start segctl-controller; then: segctl status"""


class Commands(click.Group):
    """Prints every error of ours as one line, and exits with 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SegctlError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """The segctl controller: keeps the policy, and brings it to the agents."""


@main.command()
@STATE
@click.option("--listen", required=True, metavar="HOST", help="Address to listen on, such as 0.0.0.0 or ::.")
@click.option("--name", "names", required=True, multiple=True, help="DNS name or address by which it is reached.")
@click.option("--port", type=click.IntRange(1, 65535), default=7443, show_default=True)
@click.option("--enrol-port", type=click.IntRange(1, 65535), default=7444, show_default=True)
@click.option(
    "--host-certificate-days",
    type=click.FloatRange(0, LONGEST_DAYS, min_open=True),
    default=1,
    show_default=True,
    help="How long a host's certificate holds; its agent renews it at half of that.",
)
@click.option("--database", default="", metavar="CONNINFO", help=f"{POSTGRES} Left out: SQLite, in --state.")
@click.option(
    "--api-port",
    type=click.IntRange(1, 65535),
    help="Take API tokens and sign-ins here, such as 7446.  [default: nowhere]",
)
@click.option("--ca-certificate", type=CA_FILE, help="An intermediate of your own CA, PEM; those above may follow it.")
@click.option("--ca-key", type=CA_FILE, help="Its key, PEM.")
@click.option("--admin", required=True, metavar="NAME", help="The first operator, with the role admin.")
@click.option("--admin-out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def init(
    state: Path,
    listen: str,
    names: tuple[str, ...],
    port: int,
    enrol_port: int,
    host_certificate_days: float,
    database: str,
    api_port: int | None,
    ca_certificate: Path | None,
    ca_key: Path | None,
    admin: str,
    admin_out: Path,
) -> None:
    """Make a new fleet: its CA, its database and the first operator's credentials. Overwrites nothing."""
    external = external_files(ca_certificate, ca_key)
    checked_name(admin, "the operator")
    ports = [p for p in (port, enrol_port, api_port) if p is not None]
    if len(set(ports)) != len(ports):
        raise click.UsageError("--port, --enrol-port and --api-port must differ")
    config = create_controller(
        state,
        listen,
        names,
        port,
        enrol_port,
        Clock(),
        host_certificate_days=host_certificate_days,
        database=database,
        api_port=api_port,
        external=external,
    )
    store = open_store(state)
    try:
        add_operator(state, store, admin, Role.ADMIN, admin_out, Clock())
    finally:
        store.close()
    click.echo(f"fleet {config.fleet} in {state}; credentials of {admin} in {admin_out}", err=True)
    click.echo(f"next: segctl-controller run --state {state}; then: SEGCTL_CONFIG={admin_out} segctl status", err=True)


def _where(context: click.Context, parameter: click.Parameter, value: str) -> Where | None:
    try:
        return parse_where(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


METRICS = click.option(
    "--metrics",
    callback=_where,
    metavar="HOST:PORT",
    default="127.0.0.1:7445",
    envvar="SEGCTL_CONTROLLER_METRICS",
    show_default=True,
    help="Where /metrics, /healthz and /readyz are: counts, no names. off: nowhere.",
)


@main.command()
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path, readable=False),  # it says itself what it may not read
    default="/var/lib/segctl-controller",
    envvar="SEGCTL_CONTROLLER_STATE",
    show_default=True,
    help="The controller's state directory: CA, database, configuration.",
)
@METRICS
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def doctor(state: Path, metrics: Where | None, as_json: bool) -> None:
    """Find what is wrong with this controller, and say what to do. Changes nothing. Exit code 3: a problem."""
    diagnosis = diagnose(state, metrics)
    click.echo(document(diagnosis) if as_json else "\n".join(lines(diagnosis, terminal_width())))
    sys.exit(diagnosis.exit_code)


@main.command()
@STATE
@METRICS
def run(state: Path, metrics: Where | None) -> None:
    """Serve agents and operators until SIGTERM. SIGHUP reads controller.json again and says what needs a restart."""
    logs.set_up("segctl-controller", "%(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if os.geteuid() == 0:
        log.warning("running as root: the controller needs no privilege; run it as a user of its own")
    faulthandler.enable(2)  # a watchdog's SIGABRT then says where the loop hung
    load_config(state)  # says best what is wrong when there is no controller at all
    faulthandler.enable(2)  # a watchdog's SIGABRT then says where the loop hung
    with alone(state):
        sys.setswitchinterval(SWITCH)
        asyncio.run(_serve(state, metrics))


async def _serve(state: Path, metrics: Where | None) -> None:
    config = load_config(state)
    store = open_store(state)
    try:
        controller = open_controller(state, config, store, metrics=metrics)
    except SegctlError:
        store.close()
        raise
    notifier, stopped = Notifier(), asyncio.Event()

    def reload() -> None:
        notifier.reloading("reading controller.json")
        try:
            log.info("reloaded: %s", describe_reload(state, config))
        except SegctlError as error:
            log.error("reload: %s", error)
        notifier.ready(SERVING)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    watchdog: asyncio.Task[None] | None = None
    try:
        await controller.start()
        notifier.ready(SERVING)
        click.echo("ready", err=True)
        if notifier.watchdog_seconds:
            watchdog = asyncio.create_task(_feed_watchdog(notifier, notifier.watchdog_seconds))
        await controller.run(stopped)
    finally:
        notifier.stopping(STOPPED)
        if watchdog is not None:
            watchdog.cancel()
        await controller.stop()
    log.info("stopped: %s", STOPPED)


async def _feed_watchdog(notifier: Notifier, seconds: float) -> None:
    """As long as the loop turns."""
    while True:
        notifier.watchdog()
        await asyncio.sleep(seconds)


@main.command()
@click.option("--to", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@STATE
def backup(to: Path, state: Path) -> None:
    """Write everything a controller is into the new FILE. Works while it runs. FILE holds the CA key."""
    manifest = take_backup(state, to, Clock())
    size = to.stat().st_size / 1e6
    click.echo(f"{to}: {size:.1f} MB, fleet {manifest.fleet}, generation {manifest.generation}", err=True)
    click.echo(
        "it holds the CA key: who reads it can be any host and any operator. Keep it as safe as a password store",
        err=True,
    )


@main.command("restore")
@click.option("--from", "source", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--replace", is_flag=True, help="Move the files of the controller that is there aside, into replaced-*.")
@click.option("--database", metavar="CONNINFO", help=f"{POSTGRES} Or `{SQLITE}`. Left out: as it was.")
@STATE
def restore_command(source: Path, replace: bool, database: str | None, state: Path) -> None:
    """Put a backup in place, verified. The controller must not run."""
    found = restore(source, state, replace, Clock(), "" if database == SQLITE else database)
    click.echo(f"restored the fleet {found.fleet} of {found.taken}: generation {found.generation}, {found.hosts} hosts")
    click.echo(AFTER_RESTORE, err=True)


@main.command("join")
@click.option("--from", "source", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--listen", required=True, metavar="HOST", help="Address to listen on here, such as 0.0.0.0 or ::.")
@STATE
def join_command(source: Path, listen: str, state: Path) -> None:
    """Prepare one more controller of a fleet on PostgreSQL, with the CA and the configuration in a backup."""
    config = join(source, state, listen, Clock())
    click.echo(
        f"one more controller of the fleet {config.fleet} in {state}; it is reached as {', '.join(config.names)}"
    )
    click.echo("next, where a password is needed: pgpass in --state; then: systemctl start segctl-controller", err=True)


@main.command("migrate")
@click.option("--check", is_flag=True, help="Change nothing. Exit code 3: it has to be migrated.")
@STATE
def migrate_command(check: bool, state: Path) -> None:
    """Bring the database to this version's schema. No controller must run. SQLite: done by itself at each start."""
    schemas = look_schemas(state) if check else migrate(state)
    if schemas.current:
        click.echo(f"{schemas.name}: has schema {schemas.found}, the one of this version")
    elif check:
        click.echo(f"{schemas.name}: has schema {schemas.found or 'none'}, this version needs {schemas.needed}")
        sys.exit(EXIT_PROBLEMS)
    else:
        click.echo(f"{schemas.name}: schema {schemas.found} -> {schemas.needed}")


@main.command("move")
@click.option("--to", required=True, metavar="CONNINFO", help=f"{POSTGRES} Or `{SQLITE}`: back into a file.")
@STATE
def move_command(to: str, state: Path) -> None:
    """Take the fleet to another database, which is empty. The controller must not run; what was there is kept."""
    was = move(state, "" if to == SQLITE else to, Clock())
    click.echo(f"moved; what was before is in {was}, and is not used any more", err=True)


main.add_command(admin)
main.add_command(ca)


if __name__ == "__main__":
    main()
