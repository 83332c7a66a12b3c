"""segctl login, logout, api-token and audit, against a real controller and a real provider."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from segctl.cli import login as login_module
from segctl.cli.bearer import SESSION_FILE, Session, load_session, save_session
from segctl.cli.exits import CliError, Exit
from segctl.cli.login import Redirect, sign_in
from segctl.model.policy import Tags
from segctl_controller.clock import Clock
from segctl_controller.setup import map_group, open_store
from segctl_controller.store.records import Role

from tests.controller_harness import ControllerLab, running_controller
from tests.oidcprovider import CLIENT, Provider, browse, provider
from tests.unit.segctl.cli.conftest import Cli, Ran


@pytest.fixture
def idp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with provider(tmp_path) as (made, ca):
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        yield made


async def _call(cli: Cli, directory: Path, *arguments: str, **environment: str) -> Ran:
    app = replace(cli.app, environment={**cli.app.environment, **environment})
    return await asyncio.to_thread(replace(cli, app=app).with_config(directory), *arguments)


def give(lab: ControllerLab, group: str, role: Role, scope: Tags) -> None:
    store = open_store(lab.state)
    map_group(store, group, role, scope, Clock())
    store.close()


async def test_sign_in_be_somebody_and_sign_out(
    offline: Cli, tmp_path: Path, idp: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    browsing: list[threading.Thread] = []

    def signing_in(*given, **more):
        def show(address: str) -> None:
            shown(address)
            browsing.append(threading.Thread(target=browse, args=(address,)))
            browsing[-1].start()

        *rest, shown = given
        return sign_in(*rest, show, **more)

    monkeypatch.setattr(login_module, "sign_in", signing_in)
    async with running_controller(tmp_path / "lab", **idp.settings()) as lab:
        give(lab, "web-team", Role.OWNER, Tags.of({"role": "web"}))
        client = await asyncio.to_thread(lab.client)
        refused = await _call(offline, client, "whoami")
        assert refused.code == Exit.NOT_PERMITTED
        assert "nobody is signed in" in refused.err
        assert "segctl login" in refused.err

        signed = await _call(offline, client, "login")
        browsing[0].join()
        assert signed.code == Exit.OK, signed.err
        assert f"Sign in here: {idp.issuer}/oauth2/authorize?" in signed.err
        assert "alice@example.net, owner of role=web in the fleet" in signed.out
        path = client / SESSION_FILE
        assert path.stat().st_mode & 0o777 == 0o600
        assert [p.name for p in client.glob(".session*")] == []

        who = (await _call(offline, client, "whoami", "--json")).json
        assert (who["name"], who["scopes"], who["identity"]) == (
            "oidc/alice@example.net",
            [{"role": "web"}],
            "oidc alice",
        )
        assert who["certificate_until"] is None

        ended = replace(load_session(path), id_token=idp.token(exp=int(time.time()) - 100))
        save_session(path, ended)
        assert (await _call(offline, client, "status")).code == Exit.OK
        assert load_session(path).id_token != ended.id_token  # it was renewed, and kept

        idp.refreshing = False
        save_session(path, ended)
        over = await _call(offline, client, "status")
        assert (over.code, "your sign-in has ended" in over.err) == (Exit.NOT_PERMITTED, True)
        for secret in (ended.id_token, ended.refresh_token):
            assert secret not in over.err
            assert secret not in repr(ended)

        out = await _call(offline, client, "logout")
        assert "Signed out" in out.out
        assert not path.exists()
        assert "Nobody is signed in" in (await _call(offline, client, "logout")).out


async def test_a_session_that_others_may_read_is_refused(offline: Cli, tmp_path: Path) -> None:
    async with running_controller(tmp_path / "lab", api_port=0) as lab:
        client = await asyncio.to_thread(lab.client)
        save_session(client / SESSION_FILE, Session("https://idp", CLIENT, "https://idp/token"))
        (client / SESSION_FILE).chmod(0o644)
        ran = await _call(offline, client, "whoami")
        assert (ran.code, "others may read" in ran.err) == (Exit.USAGE, True)
        (client / SESSION_FILE).unlink()
        assert "knows no OpenID provider" in (await _call(offline, client, "login")).err
        other = await _call(offline, lab.operators / "root", "login")
        assert (other.code, "there is a certificate" in other.err) == (Exit.USAGE, True)


def test_only_the_answer_to_our_question_counts(idp: Provider) -> None:
    def mislead(address: str) -> None:
        redirect = address.partition("redirect_uri=")[2].partition("&")[0].replace("%3A", ":").replace("%2F", "/")

        def go() -> None:
            for stray in ("?code=stolen&state=guess", "?code=stolen", "favicon.ico", "?state=%ff", "x?" + "a&" * 500):
                with pytest.raises(urllib.error.HTTPError):
                    browse(redirect + stray)
            browse(address, action="deny")

        threads.append(threading.Thread(target=go))
        threads[-1].start()

    threads: list[threading.Thread] = []
    with pytest.raises(CliError, match="did not sign you in"):
        sign_in(idp.issuer, CLIENT, ("openid",), 0, mislead)
    threads[0].join()
    with pytest.raises(CliError, match="nobody signed in within 0 s"):
        sign_in(idp.issuer, CLIENT, ("openid",), 0, lambda _: None, seconds=0.1)
    with Redirect(0, "s") as taken, pytest.raises(CliError, match="--port"):
        sign_in(idp.issuer, CLIENT, ("openid",), taken.server_port, lambda _: None)
    with pytest.raises(CliError, match="the sign-in failed"):
        sign_in("https://127.0.0.1:1", CLIENT, ("openid",), 0, lambda _: None)


async def test_automation_uses_an_api_token_from_a_file_or_the_environment(offline: Cli, tmp_path: Path) -> None:
    async with running_controller(tmp_path / "lab", api_port=0) as lab:
        root, client, file = lab.operators / "root", await asyncio.to_thread(lab.client), tmp_path / "ci.token"
        made = await _call(
            offline, root, "api-token", "create", "ci", "--role", "owner", "--scope", "role=web", "--out", str(file)
        )
        assert made.code == Exit.OK, made.err
        secret = file.read_text().strip()
        assert secret not in made.out + made.err
        assert file.stat().st_mode & 0o777 == 0o600
        by_file = await _call(offline, client, "whoami", SEGCTL_TOKEN_FILE=str(file))
        assert "token/ci, owner of role=web in the fleet" in by_file.out
        # It goes before a certificate, which is then not shown.
        lab_client = json.loads((client / "client.json").read_text())
        (root / "client.json").write_text(json.dumps({**lab_client, "name": "root"}))
        assert (await _call(offline, root, "whoami", "--json", SEGCTL_TOKEN=secret)).json["name"] == "token/ci"
        assert (await _call(offline, root, "whoami", "--json")).json["name"] == "root"
        listed = await _call(offline, root, "api-token", "list", "--json")
        (token,) = listed.json
        assert (token["name"], token["role"], token["scope"]) == ("ci", "owner", {"role": "web"})

        for environment, words in (
            ({"SEGCTL_TOKEN": secret[:-3]}, "holds no API token, or not all of one"),
            ({"SEGCTL_TOKEN": secret, "SEGCTL_TOKEN_FILE": str(file)}, "are both set"),
            ({"SEGCTL_TOKEN_FILE": str(tmp_path / "absent")}, "absent"),
        ):
            ran = await _call(offline, client, "whoami", **environment)
            assert (ran.code, words in ran.err) == (Exit.USAGE, True), ran.err
        file.chmod(0o644)
        assert "others may read" in (await _call(offline, client, "whoami", SEGCTL_TOKEN_FILE=str(file))).err
        again = await _call(offline, root, "api-token", "create", "x", "--role", "viewer", "--out", str(file))
        assert (again.code, len((await _call(offline, root, "api-token", "list", "--json")).json)) == (Exit.USAGE, 1)

        revoked = await _call(offline, root, "api-token", "revoke", token["id"])
        assert f"Revoked API token {token['id']}" in revoked.out
        gone = await _call(offline, client, "whoami", SEGCTL_TOKEN=secret)
        assert (gone.code, "revoked" in gone.err) == (Exit.NOT_PERMITTED, True)
        assert "segctl api-token create" in gone.err


async def test_the_audit_log_is_verified_by_who_reads_it(offline: Cli, tmp_path: Path) -> None:
    async with running_controller(tmp_path / "lab") as lab:
        root = lab.operators / "root"
        await lab.enrol("web1", {"role": "web"})
        good = await _call(offline, root, "audit", "verify", "--json")
        assert good.code == Exit.OK, good.err
        noted = good.json["head"]
        await lab.enrol("web2", {"role": "web"})
        shown = await _call(offline, root, "audit", "verify", "--since-head", noted[:16])
        assert f"holds the head {noted[:12]} that was noted" in shown.out
        strange = await _call(offline, root, "audit", "verify", "--since-head", "0" * 12)
        assert (strange.code, "its end was cut off" in strange.err) == (Exit.FINDINGS, True)
        assert (await _call(offline, root, "audit", "verify", "--since-head", "xyz")).code == Exit.USAGE

        out = tmp_path / "audit.jsonl"
        exported = await _call(offline, root, "audit", "export", "--out", str(out))
        assert f"Wrote {out}" in exported.out
        lines = out.read_text().splitlines()
        assert (await _call(offline, root, "audit", "export")).out.splitlines() == lines
        assert (await _call(offline, root, "audit", "export", "--out", str(out))).code == Exit.USAGE

        found = (await _call(offline, root, "audit", "--did", "enrol", "--to", "host web2", "--json")).json
        assert [(e["subject"], e["action"]) for e in found] == [("host web2", "enrol")]
        assert (await _call(offline, root, "audit", "--who", "nobody")).out == "The audit log holds no such entry.\n"
        wide = await _call(offline, root, "audit", "--did", "token", "--wide")
        assert "127.0.0.1" in wide.out
        assert "certificate " in wide.out

    # Without the controller, which is gone:
    file = str(out)
    whole = await _call(offline, tmp_path, "audit", "verify", "--file", file, "--since-head", noted)
    assert whole.code == Exit.OK, whole.err
    for number, broken in enumerate(
        (
            [lines[0], lines[1].replace('"root"', '"eve"'), *lines[2:]],
            [lines[0], *lines[2:]],
            [*lines[:2], "{}"],
            ["\x00"],
        )
    ):
        path = tmp_path / f"broken{number}.jsonl"
        path.write_text("\n".join(broken) + "\n")
        ran = await _call(offline, tmp_path, "audit", "verify", "--file", str(path))
        assert ran.code == Exit.FINDINGS, broken
    cut = tmp_path / "cut.jsonl"
    cut.write_text("\n".join(lines[:2]) + "\n")
    ran = await _call(offline, tmp_path, "audit", "verify", "--file", str(cut), "--since-head", noted)
    assert ran.code == Exit.FINDINGS
    assert (await _call(offline, tmp_path, "audit", "verify", "--file", str(cut))).code == Exit.OK
