"""The command `segctl-agent`. Exit codes: 0 done, 1 it failed and says why, 2 wrong usage, 3 `status` or `show` found
something not as it should be."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import re
import socket
import sys
import syslog
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec, TextIO

import click
from segctl import __version__, logs
from segctl.errors import SegctlError, StateError
from segctl.statuspage import Where, parse_where

from segctl_agent.credentials import Identity, load_identity
from segctl_agent.state import StateFolder

DEFAULT_STATE = Path("/var/lib/segctl-agent")
_PATIENCE_SECONDS = 0.2
log = logging.getLogger("segctl_agent")

P = ParamSpec("P")
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    envvar="SEGCTL_AGENT_STATE",
    show_default=True,
    show_envvar=True,
    help="The agent's state folder.",
)


def _mask(context: click.Context, parameter: click.Parameter, value: str) -> int:
    from segctl_agent.render import MarkLayout

    try:
        return MarkLayout(int(value, 0)).mask
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


mask_option = click.option(
    "--mark-mask",
    callback=_mask,
    default="0xffffffc0",
    envvar="SEGCTL_MARK_MASK",
    show_default=True,
    show_envvar=True,
    help="The bits of the conntrack mark that are the agent's: 18 or more neighbours. The others are left alone.",
)


apply_option = click.option(
    "--apply",
    type=click.Choice(["auto", "netlink", "text"]),
    default="auto",
    envvar="SEGCTL_AGENT_APPLY",
    show_default=True,
    show_envvar=True,
    help="How rules reach the kernel. netlink: by messages of our own. text: by libnftables. auto: by libnftables what "
    "the kernel refuses of our own.",
)


def _where(context: click.Context, parameter: click.Parameter, value: str) -> Where | None:
    try:
        return parse_where(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


metrics_option = click.option(
    "--metrics",
    callback=_where,
    metavar="HOST:PORT",
    default="127.0.0.1:7446",
    envvar="SEGCTL_AGENT_METRICS",
    show_default=True,
    show_envvar=True,
    help="Where /metrics, /healthz and /readyz are: counts, no names. off: nowhere.",
)


def _says_why(command: Callable[P, int]) -> Callable[P, None]:
    """An expected error is one line on stderr and exit code 1; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except SegctlError as error:
            click.echo(f"segctl-agent: {error}", err=True)
            code = 1
        sys.exit(code)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segctl-agent")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> None:
    """Enforce this host's part of the fleet's policy, by process, in its own nftables table."""
    logs.set_up("segctl-agent", "%(asctime)s %(levelname)s %(message)s", verbose=verbose)


@main.command(short_help="Make this host a member of the fleet.")
@click.option("--token-file", type=click.File("r"), required=True, help="The join token; - reads it from stdin.")
@state_option
@click.option(
    "--name", default=lambda: socket.gethostname(), show_default="this host's name", help="The name to ask for."
)
@click.option("--replace", is_flag=True, help="Give up the identity this host has.")
@click.option("--start", is_flag=True, help="Start the agent's units then, now and at every boot.")
@_says_why
def enrol(token_file: TextIO, state: Path, name: str, replace: bool, start: bool) -> int:
    """Make this host a member of the fleet, with a join token of `segctl token create`."""
    from segctl_agent.enrol import enrol as do_enrol
    from segctl_agent.jointoken import parse_join_token
    from segctl_agent.starting import BY_HAND, start_units

    if start and state != DEFAULT_STATE:
        raise click.UsageError(f"--start starts the units, whose state folder is {DEFAULT_STATE}: leave out --state")
    try:
        text = token_file.read(65536)
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read the join token from {token_file.name}: {error}") from error
    identity = do_enrol(state, parse_join_token(text), name, replace, datetime.now(UTC))
    click.echo(
        f"enrolled: {identity.host} of the fleet {identity.fleet}; its certificate ends "
        f"{identity.valid_until:%Y-%m-%d %H:%M} UTC, and is renewed before"
    )
    if start:
        start_units()
        click.echo("the agent runs: segctl-agent status", err=True)
    else:
        click.echo(f"next: {BY_HAND}", err=True)
    return 0


@main.command(short_help="Renew this host's certificate now.")
@state_option
@_says_why
def renew(state: Path) -> int:
    """Renew this host's certificate now. A running agent does so by itself, at half of its life, and takes over what
    this command stored."""
    from segctl_agent.renew import renew as do_renew

    _enrolled(state)
    identity = do_renew(state, datetime.now(UTC))
    click.echo(f"renewed: the certificate of {identity.host} ends {identity.valid_until:%Y-%m-%d %H:%M} UTC")
    return 0


@main.command()
@state_option
@click.option(
    "--table-guard",
    type=click.Choice(["auto", "watch"]),
    default="auto",
    envvar="SEGCTL_AGENT_TABLE_GUARD",
    show_default=True,
    show_envvar=True,
    help="auto: own the table, so that the kernel refuses others' changes, where it can. watch: undo them.",
)
@mask_option
@apply_option
@metrics_option
@_says_why
def run(state: Path, table_guard: str, mark_mask: int, apply: str, metrics: Where | None) -> int:
    """Enforce, follow the controller, report. SIGTERM ends it, and the rules stay in force. SIGHUP reloads."""
    from segctl.systemd import Notifier

    faulthandler.enable(2)  # a watchdog's SIGABRT then says where the loop hung
    from segctl_agent.loop import Loop
    from segctl_agent.nft.fallback import Apply, open_kernel
    from segctl_agent.nft.ownership import TableGuard
    from segctl_agent.render import MarkLayout

    folder, identity = _enrolled(state)
    lock = folder.lock(patience=_PATIENCE_SECONDS)
    if lock is None:
        raise StateError(
            f"another agent runs with the state folder {state}: stop it first (`systemctl stop segctl-agent`)"
        )

    async def agent() -> int:
        kernel = partial(open_kernel, Apply(apply), TableGuard(table_guard))
        return await Loop(folder, identity, Notifier(), MarkLayout(mark_mask), kernel, metrics).run()

    return asyncio.run(agent())


@main.command("exec-gate", short_help="Tell executables of the policy apart as they start.")
@state_option
@_says_why
def exec_gate(state: Path) -> int:
    """Move what runs an executable of the policy into a cgroup of its own, as it starts. Ends when there is none."""
    from segctl.systemd import Notifier

    from segctl_agent.execgate.command import run_gate

    return run_gate(state, Notifier())


@main.command(short_help="Put the last good generation in force and exit.")
@state_option
@mask_option
@apply_option
@_says_why
def load(state: Path, mark_mask: int, apply: str) -> int:
    """Put the last good generation in force and exit: at boot, or to end a release."""
    folder, identity = _enrolled(state)
    if folder.held:
        from segctl_agent.release import end_release, operator

        log.warning("the release of this host ends: %s", folder.held)
        end_release(folder, operator())
    lock = folder.lock(patience=_PATIENCE_SECONDS)
    if lock is None:
        click.echo("an agent is running: it puts the policy in force within a second")
        return 0
    from segctl_agent.nft.fallback import Apply
    from segctl_agent.render import MarkLayout
    from segctl_agent.standalone import load_last_good

    boot = load_last_good(folder, identity, MarkLayout(mark_mask), Apply(apply))
    for problem in boot.problems:
        click.echo(f"segctl-agent: {problem}", err=True)
    click.echo(boot.status)
    return 0 if not boot.problems else 1


@main.command()
@state_option
@mask_option
@_says_why
def show(state: Path, mark_mask: int) -> int:
    """Print what the kernel holds of ours, as nft text."""
    from segctl_agent.render import MarkLayout
    from segctl_agent.standalone import kernel_text

    text = kernel_text(StateFolder(state), MarkLayout(mark_mask))
    if text is None:
        click.echo("no table inet segctl: nothing is enforced", err=True)
        return 3
    click.echo(text, nl=False)
    return 0


@main.command()
@state_option
@_says_why
def status(state: Path) -> int:
    """Tell what is in force and whether the agent runs. Exit code 3 when it is not as it should be."""
    from segctl_agent.standalone import describe

    folder, identity = _enrolled(state)
    lines, good = describe(folder, identity)
    for line in lines:
        click.echo(line)
    return 0 if good else 3


@main.command(short_help="Find what is wrong with this host, and say what to do.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, readable=False),  # it says itself what it may not read
    default=DEFAULT_STATE,
    envvar="SEGCTL_AGENT_STATE",
    show_default=True,
    show_envvar=True,
    help="The agent's state folder.",
)
@mask_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@_says_why
def doctor(state: Path, mark_mask: int, as_json: bool) -> int:
    """Look at everything that an agent stands on: kernel, state, identity, controllers, table, units. Changes nothing.

    Each line says what it means, and what to do. Exit code 3 when there is a problem. Run it as root: it says what it
    could not look at otherwise.
    """
    from segctl.doctor import document, lines, terminal_width

    from segctl_agent.doctor.command import diagnose
    from segctl_agent.render import MarkLayout

    diagnosis = diagnose(state, MarkLayout(mark_mask))
    click.echo(document(diagnosis) if as_json else "\n".join(lines(diagnosis, terminal_width())))
    return diagnosis.exit_code


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", value)
    if match is None:
        raise click.BadParameter("write it like 90s, 30m, 2h or 1d", context, parameter)
    return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


@main.command(short_help="EMERGENCY: remove the rules from this host.")
@state_option
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit log.")
@click.option(
    "--for", "lasts", callback=_duration, metavar="TIME", help="End it by itself after so long: 90s, 30m, 2h, 1d."
)
@_says_why
def release(state: Path, reason: str, lasts: timedelta | None) -> int:
    """EMERGENCY: remove the rules from this host, and keep them out until `load`, a reboot, or the end of --for.

    Who did it goes to the journal, and to the controller's audit log as soon as the agent reaches it.
    """
    from segctl_agent.release import Release, begin_release, operator
    from segctl_agent.standalone import remove_rules

    try:
        found = state.is_dir()
    except OSError as error:
        raise StateError(f"cannot look into {state}: {error.strerror}. Run it as root") from error
    if not found:
        raise StateError(f"there is no state folder {state}: name the agent's with --state")
    folder, begun = StateFolder(state), Release.begin(operator(), reason, lasts)
    log.critical("%s: removing the table inet segctl", begun.words)
    syslog.openlog("segctl-agent", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(syslog.LOG_CRIT, begun.words)
    if problem := begin_release(folder, begun):
        log.error("%s", problem)
    remove_rules(folder)
    click.echo(f"{begun.words}. Every packet passes now")
    click.echo("`segctl-agent load` puts the policy in force again; so does a reboot")
    return 0


def _enrolled(state: Path) -> tuple[StateFolder, Identity]:
    identity = load_identity(state)
    if identity is None:
        raise StateError(
            f"this host is not enrolled ({state} holds no identity): run `segctl-agent enrol --token-file FILE`"
        )
    logs.always(HOST=identity.host)
    return StateFolder(state), identity


if __name__ == "__main__":
    main()
