"""segctl-controller: init, run, admin add, admin list, admin remove."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from segctl import __version__
from segctl.errors import SegctlError
from segctl.systemd import Notifier

import segctl_controller.tls13  # noqa: F401 - first of ours: it must run before grpc is imported
from segctl_controller.clock import Clock
from segctl_controller.config import load_config
from segctl_controller.names import checked_name
from segctl_controller.reload import describe_reload
from segctl_controller.server import open_controller
from segctl_controller.setup import add_operator, create_controller, open_store, remove_operator
from segctl_controller.store.records import Role

SERVING = "serving agents and operators"
STOPPED = "every host keeps enforcing what it has, and queues what it has to report"
log = logging.getLogger("segctl_controller")

STATE = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default="/var/lib/segctl-controller",
    envvar="SEGCTL_CONTROLLER_STATE",
    show_default=True,
    help="The controller's state directory: CA, database, configuration.",
)


class OneLine(logging.Formatter):
    """One line an event, whatever hosts and strangers call themselves: what does not print is escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - named by logging
        text = super().formatMessage(record)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


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
@click.option("--admin", required=True, metavar="NAME", help="The first operator, with the role admin.")
@click.option("--admin-out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def init(
    state: Path, listen: str, names: tuple[str, ...], port: int, enrol_port: int, admin: str, admin_out: Path
) -> None:
    """Make a new fleet: its CA, its database and the first operator's credentials. Overwrites nothing."""
    checked_name(admin, "the operator")
    if port == enrol_port:
        raise click.UsageError("--port and --enrol-port must differ")
    config = create_controller(state, listen, names, port, enrol_port, Clock())
    store = open_store(state)
    try:
        add_operator(state, store, admin, Role.ADMIN, admin_out, Clock())
    finally:
        store.close()
    click.echo(f"fleet {config.fleet} in {state}; credentials of {admin} in {admin_out}", err=True)
    click.echo(f"next: segctl-controller run --state {state}; then: SEGCTL_CONFIG={admin_out} segctl status", err=True)


@main.command()
@STATE
def run(state: Path) -> None:
    """Serve agents and operators until SIGTERM. SIGHUP reads controller.json again and says what needs a restart."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if os.geteuid() == 0:
        log.warning("running as root: the controller needs no privilege; run it as a user of its own")
    faulthandler.enable(2)  # a watchdog's SIGABRT then says where the loop hung
    asyncio.run(_serve(state))


async def _serve(state: Path) -> None:
    config = load_config(state)
    store = open_store(state)
    try:
        controller = open_controller(state, config, store)
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


@main.group()
def admin() -> None:
    """Operators: who may use the CLI, and in which role."""


@admin.command("add")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice([r.value for r in Role]))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@STATE
def admin_add(name: str, role: str, out: Path, state: Path) -> None:
    """Make credentials for NAME in DIR. Works while the controller runs."""
    store = open_store(state)
    try:
        add_operator(state, store, name, Role(role), out, Clock())
    finally:
        store.close()
    click.echo(f"credentials of {name} ({role}) in {out}", err=True)


@admin.command("list")
@STATE
def admin_list(state: Path) -> None:
    """Print name, role and the time of making, one operator a line."""
    store = open_store(state)
    try:
        for operator in store.operators():
            made = datetime.fromtimestamp(operator.created_us / 1e6, UTC)
            click.echo(f"{operator.name}\t{operator.role.value}\t{made:%Y-%m-%dT%H:%M:%SZ}")
    finally:
        store.close()


@admin.command("remove")
@click.argument("name")
@STATE
def admin_remove(name: str, state: Path) -> None:
    """Take NAME's rights away, at once."""
    store = open_store(state)
    try:
        remove_operator(store, name, Clock())
    finally:
        store.close()
    click.echo(f"operator {name} removed", err=True)


if __name__ == "__main__":
    main()
