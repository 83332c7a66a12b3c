"""`segctl whoami`, `login` and `logout`."""

from __future__ import annotations

import webbrowser
from contextlib import suppress

import click

from segctl.cli.app import App, Verb
from segctl.cli.exits import CliError, Exit
from segctl.cli.output import bold, good, line
from segctl.cli.output_access import render_whoami


@click.command(
    cls=Verb,
    changes="Nothing on the fleet. While its CA is rotated, ca.pem of your configuration comes to hold both CAs.",
    examples=["segctl whoami", "segctl --config ~/other-fleet whoami"],
)
@click.pass_obj
def whoami(app: App) -> None:
    """Show who you are to the controller: your name, your role (viewer, owner, editor, admin; of an owner the scope),
    the fleet, and when what you show (certificate, API token, sign-in) ends."""
    with app.connect() as controller:
        who = controller.whoami()
    app.result(who, render_whoami(who, app.clock()))


@click.command(
    cls=Verb,
    changes="Stores the sign-in in session.json of the client configuration, mode 0600. It is renewed there by itself.",
    examples=["segctl login", "segctl login --no-browser --port 8400   # after: ssh -L 8400:127.0.0.1:8400 HOST"],
)
@click.option("--browser/--no-browser", default=True, help="Open the address in a browser; it is shown in any case.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Where the browser returns to.  [default: a free one]",
)
@click.pass_obj
def login(app: App, browser: bool, port: int) -> None:
    """Sign in at the OpenID provider of the controller, with a browser.

    The client configuration needs client.json and ca.pem, as segctl-controller admin client writes them, and no
    certificate. What you may do is in the controller's records, by your groups.
    """
    from segctl.cli.bearer import SESSION_FILE, SignedIn, save_session
    from segctl.cli.client import Controller, sign_in_options
    from segctl.cli.config import load_config
    from segctl.cli.login import sign_in

    config = load_config(app.configuration)
    if config.certificate:
        raise CliError(
            f"{config.directory}: there is a certificate, which goes before a sign-in",
            "Name another --config.",
            Exit.USAGE,
        )
    issuer, client_id, scopes = sign_in_options(config)
    if not issuer:
        raise CliError(f"controller {config.api}: knows no OpenID provider", "Put oidc into its controller.json.")

    def show(address: str) -> None:
        app.terminal.tell([line("Sign in here: ", bold(address))])
        if browser and app.terminal.watched:
            with suppress(webbrowser.Error):
                webbrowser.open(address)

    session = sign_in(issuer, client_id, scopes, port, show)
    path = config.directory / SESSION_FILE
    save_session(path, session)
    with Controller(config, SignedIn(path)) as controller:
        who = controller.whoami()
    app.result(who, [line(good("Signed in.")), *render_whoami(who, app.clock())])


@click.command(
    cls=Verb, changes="Removes session.json; the provider is told where it takes that.", examples=["segctl logout"]
)
@click.pass_obj
def logout(app: App) -> None:
    """Forget the sign-in of segctl login."""
    from segctl.cli.bearer import SESSION_FILE, load_session
    from segctl.oidcweb import WebError, post_form

    path = app.configuration / SESSION_FILE
    if not path.exists():
        app.result({"signed_out": False}, [line("Nobody is signed in here.")])
        return
    try:
        session = load_session(path)
    finally:
        path.unlink(missing_ok=True)
    told = not session.revocation_endpoint
    if session.revocation_endpoint and session.refresh_token:
        with suppress(WebError):  # what we had is gone in any case
            form = {"token": session.refresh_token, "client_id": session.client_id}
            post_form(session.revocation_endpoint, form)
            told = True
    app.result({"signed_out": True}, [line(good("Signed out."))])
    if not told:
        app.remark([line("The provider could not be told: its refresh token holds until it ends there.")])
