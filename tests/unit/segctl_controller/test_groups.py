"""segctl-controller admin: owners, groups of the OpenID provider, and client configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from segctl.model.policy import Tags
from segctl_controller.main import main
from segctl_controller.setup import open_store
from segctl_controller.store.records import Role

from tests.controller_harness import init_state


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return init_state(tmp_path)


def admin(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["admin", *arguments, "--state", str(state)])


def test_an_owner_is_made_with_its_scope(state: Path, tmp_path: Path) -> None:
    scope = ("--scope", "app=shop", "--scope", "env=dev")
    assert admin(state, "add", "olga", "--role", "owner", *scope, "--out", str(tmp_path / "olga")).exit_code == 0
    listed = admin(state, "list").stdout.splitlines()
    assert [line.split("\t")[:2] + line.split("\t")[3:] for line in listed] == [
        ["olga", "owner", "app=shop,env=dev"],
        ["root", "admin"],
    ]
    store = open_store(state)
    operator = store.operator("olga")
    assert operator is not None
    assert operator.scope == Tags.of({"app": "shop", "env": "dev"})
    assert store.entries(1)[0].detail == "role owner of app=shop,env=dev"
    store.close()


@pytest.mark.parametrize(
    ("role", "scope", "words"),
    [
        ("owner", (), "needs a scope"),
        ("viewer", ("app=shop",), "fleet-wide"),
        ("owner", ("app",), "write KEY=VALUE"),
        ("owner", ("app=a", "app=b"), "each key once"),
        ("owner", ("app=",), "write KEY=VALUE"),
        ("owner", ("APP=shop",), "malformed"),
    ],
)
def test_a_scope_that_cannot_be(state: Path, tmp_path: Path, role: str, scope: tuple[str, ...], words: str) -> None:
    options = [part for text in scope for part in ("--scope", text)]
    for command in (("add", "olga", "--out", str(tmp_path / "olga")), ("map-group", "shop-team")):
        ran = admin(state, *command, "--role", role, *options)
        assert (ran.exit_code, words in ran.stderr) == (1, True), ran.stderr
    assert not (tmp_path / "olga").exists()


def test_groups_are_mapped_listed_and_unmapped(state: Path) -> None:
    assert admin(state, "map-group", "shop-team", "--role", "owner", "--scope", "app=shop").exit_code == 0
    assert admin(state, "map-group", "shop-team", "--role", "owner", "--scope", "app=crm").exit_code == 0
    assert admin(state, "map-group", "ops", "--role", "admin").exit_code == 0
    again = admin(state, "map-group", "ops", "--role", "admin")
    assert (again.exit_code, "has the role admin already" in again.stderr) == (1, True)
    assert admin(state, "groups").stdout == "ops\tadmin\t\nshop-team\towner\tapp=crm\nshop-team\towner\tapp=shop\n"
    assert admin(state, "unmap-group", "shop-team").exit_code == 0
    assert admin(state, "groups").stdout == "ops\tadmin\t\n"
    gone = admin(state, "unmap-group", "shop-team")
    assert (gone.exit_code, "no group 'shop-team' is mapped" in gone.stderr) == (1, True)
    assert admin(state, "map-group", "a\nb", "--role", "viewer").exit_code == 1
    store = open_store(state)
    said = [(e.action, e.subject, e.detail) for e in store.entries(2)]
    assert said == [("unmap-group", "group shop-team", ""), ("map-group", "group ops", "role admin")]
    assert {g.role for g in store.groups()} == {Role.ADMIN}
    store.close()


def test_a_client_configuration_holds_no_secret(state: Path, tmp_path: Path) -> None:
    refused = admin(state, "client", "--out", str(tmp_path / "client"))
    assert (refused.exit_code, "has no api_port" in refused.stderr) == (1, True)
    file = state / "controller.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "api_port": 7446}))
    assert admin(state, "client", "--out", str(tmp_path / "client")).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "client").iterdir()) == ["ca.pem", "client.json"]
    client = json.loads((tmp_path / "client" / "client.json").read_text())
    assert (client["api"], client["name"]) == ("127.0.0.1:7446", "")
    assert admin(state, "client", "--out", str(tmp_path / "client")).exit_code == 1
