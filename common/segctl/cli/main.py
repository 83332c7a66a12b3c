"""The command `segctl`: its verbs, and the one place that turns errors into exit codes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from segctl.cli.app import App, insert_options, take_common_options
from segctl.cli.exits import CliError, Exit
from segctl.cli.terminal import ReaderGoneError, Terminal, environment
from segctl.cli.views_json import document
from segctl.errors import PolicyError, SegctlError

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("setup", "Set up a controller on this machine."),
    "check": ("check", "Find mistakes in policy files; works offline."),
    "plan": ("push", "Show what a policy would change, without changing it."),
    "push": ("push", "Plan, ask, and put a policy in force on every host."),
    "rollback": ("push", "Put an earlier generation in force again."),
    "enforce": ("enforce", "Move a selector from observe over test to enforce, when ready."),
    "history": ("history", "List the generations, or show one."),
    "status": ("status", "Show the fleet: who is in sync, who is not, what to do."),
    "doctor": ("doctor", "Find what is wrong with this machine, host or controller."),
    "host": ("host", "List, show, prepare and remove enrolled hosts."),
    "tag": ("host", "Show or change the tags of a host."),
    "token": ("token", "Create, list and revoke join tokens."),
    "explain": ("explain", "Say whether A may talk to B, why, and what the kernels say."),
    "denied": ("denied", "Show denied connections with their process and peer."),
    "flows": ("flows", "Search flows: who talks to whom, by which rule, how much."),
    "map": ("map", "Draw who talks to whom, between tag groups."),
    "suggest": ("suggest", "Suggest rules for what was observed, ready to paste."),
    "review": ("suggest", "Accept, edit or reject suggested rules, as a diff for git."),
    "report": ("report", "Report what rules are used for, and which need a look."),
    "audit": ("audit", "Show who changed what, and when; prove that the log is whole."),
    "whoami": ("account", "Show who you are to the controller, and your role."),
    "login": ("account", "Sign in at the OpenID provider, with a browser."),
    "logout": ("account", "Forget the sign-in."),
    "api-token": ("apitoken", "Create, list and revoke API tokens for automation."),
    "completion": ("setup", "Print the shell completion for bash, zsh or fish."),
}
GROUPS = {
    "Policy": ("check", "plan", "push", "rollback", "enforce", "history", "suggest", "review"),
    "Fleet": ("status", "doctor", "host", "tag", "token"),
    "Questions": ("explain", "denied", "flows", "map", "report", "audit"),
    "Access": ("whoami", "login", "logout", "api-token"),
    "Setting up": ("init", "completion"),
}


class Root(click.Group):
    """Imports the module of a command only when that command runs, so that help and completion answer at once."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return insert_options(super().get_params(ctx))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in GROUPS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"segctl.cli.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            mend = f" Did you mean {near[0]!r}?" if near else " `segctl --help` lists the commands."
            ctx.fail(f"No such command {args[0]!r}.{mend}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names], col_max=12)

    def invoke(self, ctx: click.Context) -> object:
        take_common_options(ctx)
        return super().invoke(ctx)


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 findings or refused, 2 usage, 3 controller unreachable, 4 not permitted, "
    "5 pushed but not proven on every host. `segctl COMMAND --help` shows examples and what a command changes.",
)
@click.version_option(None, "-V", "--version", package_name="segctl", message="segctl %(version)s")
def root() -> None:
    """Micro-segmentation for fleets of Linux servers: who may talk to whom, by process, proven by the kernel."""


def run(arguments: Sequence[str] | None, app: App) -> int:
    """Run one command line and give its exit code. Results go to stdout, everything else to stderr."""
    try:
        code = root.main(args=arguments, prog_name="segctl", standalone_mode=False, obj=app)
    except click.UsageError as error:
        error.show()
        return Exit.USAGE
    except click.ClickException as error:
        app.terminal.error(error.format_message())
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        app.terminal.error("interrupted")
        return Exit.INTERRUPTED
    except ReaderGoneError:
        # stdout goes elsewhere, or the interpreter complains when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.BROKEN_PIPE
    except SegctlError as error:
        return _fail(error, arguments, app)
    return int(code) if isinstance(code, int) else Exit.OK


def _fail(error: SegctlError, arguments: Sequence[str] | None, app: App) -> int:
    code = error.exit_code if isinstance(error, CliError) else Exit.FINDINGS
    message, mend = (error.message, error.mend) if isinstance(error, CliError) else (str(error), "")
    # The error may come before or after the options were understood, so the words themselves are asked.
    if "--json" in (sys.argv[1:] if arguments is None else arguments):
        findings = error.findings if isinstance(error, PolicyError) else ()
        body = {"message": message, "mend": mend, "exit_code": int(code), "findings": findings}
        sys.stderr.write(document({"error": body}) + "\n")
    else:
        app.terminal.error(message, mend)
    return code


def main() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show an arrow shows a question mark; the command goes on.
            stream.reconfigure(errors="replace")
    sys.exit(run(None, App(Terminal.of_process(environment()), environment())))


if __name__ == "__main__":
    main()
