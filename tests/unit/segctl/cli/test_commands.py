"""Each command against a scripted controller over real mutual TLS: what it asks, what it prints, how it exits."""

from __future__ import annotations

import csv
import io
import re
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from segctl.cli.commands.push import _previous
from segctl.cli.exits import Exit
from segctl.proto.v1 import admin_pb2 as pb
from segctl.proto.v1 import agent_pb2

from tests.unit.segctl.cli import samples
from tests.unit.segctl.cli.admin_server import CUT, T0, ScriptedAdmin
from tests.unit.segctl.cli.conftest import Cli
from tests.unit.segctl.cli.samples import NOW

SEGCTL = Path(sys.executable).with_name("segctl")


def test_whoami(cli: Cli) -> None:
    assert cli("whoami").out.startswith("alice, admin of the fleet shop")
    assert cli("whoami", "--json").json["role"] == "admin"


def test_json_and_config_may_stand_before_and_after_the_verb(cli: Cli, offline: Cli) -> None:
    directory = str(cli.app.directory)
    assert offline("--json", "--config", directory, "whoami").json["name"] == "alice"
    assert offline("host", "--json", "list", "--config", directory).json[0]["name"] == "web1"


def test_plan_shows_the_difference_and_sends_the_files(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    ran = cli("plan", str(policy))
    assert ran.code == Exit.OK
    assert "+ a → b ssh on web1" in ran.out
    (sent,) = controller.asked
    assert [(f.name, f.content) for f in sent.files] == [(str(policy), b"version: 1\n")]


def test_plan_of_a_broken_policy_exits_1(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    controller.plan = pb.PlanReply(findings=[pb.Finding(file="f", line=1, column=2, severity="error", message="no")])
    ran = cli("plan", "--json", str(policy))
    assert ran.code == Exit.FINDINGS
    assert ran.json["findings"][0]["line"] == 1


def test_push_sends_what_was_planned_and_waits_for_proof(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    ran = cli("push", str(policy), "--yes", "-m", "why", "--wait", "7")
    assert ran.code == Exit.OK
    assert "web1" in ran.out
    assert "proven in 84 ms" in ran.out
    request = controller.asked[-1]
    assert (request.expect_digest, request.expect_base_generation) == ("cc" * 32, 8)
    assert (request.message, request.wait_seconds) == ("why", 7)


def test_push_streams_json(cli: Cli, policy: Path) -> None:
    ran = cli("push", str(policy), "--yes", "--json")
    assert [line["kind"] for line in ran.lines] == ["plan", "stored", "host", "done"]
    assert ran.lines[2]["after_ms"] == 84.0


def test_push_without_a_terminal_refuses_and_says_how(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    ran = cli("push", str(policy))
    assert ran.code == Exit.USAGE
    assert "--yes" in ran.err
    assert not any(isinstance(r, pb.PushRequest) for r in controller.asked)


@pytest.mark.parametrize(("answer", "code"), [("y\n", Exit.OK), ("n\n", Exit.FINDINGS), ("", Exit.FINDINGS)])
def test_push_asks_on_a_terminal(
    cli: Cli, controller: ScriptedAdmin, policy: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: Exit
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    ran = cli.on_terminal()("push", str(policy))
    assert ran.code == code
    assert "Push this policy? [y/N]" in ran.err
    assert any(isinstance(r, pb.PushRequest) for r in controller.asked) is (code is Exit.OK)


def test_push_of_a_policy_with_errors_stops_before_the_push(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    controller.plan = pb.PlanReply(findings=[pb.Finding(file="f", severity="error", message="broken test")])
    ran = cli("push", str(policy), "--yes")
    assert ran.code == Exit.FINDINGS
    assert "broken test" in ran.out
    assert not any(isinstance(r, pb.PushRequest) for r in controller.asked)


def test_push_of_the_policy_in_force_changes_nothing(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    controller.plan = pb.PlanReply(base_generation=8, digest="bb" * 32)
    assert "nothing to push" in cli("push", str(policy)).out
    assert not any(isinstance(r, pb.PushRequest) for r in controller.asked)
    assert cli("push", str(policy), "--force", "--yes").code == Exit.OK
    controller.plan.behind = True  # a controller that was restored from an older copy
    assert "nothing to push" not in cli("push", str(policy), "--yes").out


@pytest.mark.parametrize(
    ("state", "options", "code"),
    [
        ("refused", (), Exit.PARTIAL),
        ("waiting", (), Exit.PARTIAL),
        ("offline", (), Exit.PARTIAL),
        ("offline", ("--allow-offline",), Exit.OK),
        ("refused", ("--allow-offline",), Exit.PARTIAL),
    ],
)
def test_a_host_without_proof_makes_it_partial(
    cli: Cli, controller: ScriptedAdmin, policy: Path, state: str, options: tuple[str, ...], code: Exit
) -> None:
    controller.proofs.append(pb.HostProof(host="db1", state=state, errors=["no user app"]))
    ran = cli("push", str(policy), "--yes", *options)
    assert ran.code == code
    assert "no user app" in ran.out
    assert "1 of 2 hosts proved it" in ran.out


def test_a_push_that_breaks_after_it_was_stored_says_so(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    controller.break_push = grpc.StatusCode.RESOURCE_EXHAUSTED
    ran = cli("push", str(policy), "--yes")
    assert ran.code == Exit.FINDINGS
    assert "The push of generation 9 goes on without us" in ran.err


def test_rollback_shows_the_plan_and_names_the_generation(cli: Cli, controller: ScriptedAdmin) -> None:
    ran = cli("rollback", "--yes", "-m", "back")
    assert ran.code == Exit.OK
    assert "Plan against generation 8" in ran.out
    assert controller.asked[-1] == pb.RollbackRequest(
        generation=7,
        message="back",
        wait_seconds=30,
        expect_base_generation=8,
        rollout=pb.Rollout(watch_seconds=0, waves=1),
        together=True,
    )


def test_what_never_was_confirmed_is_nothing_to_return_to() -> None:
    """Also where a full disk kept the controller from storing that it is undone."""
    assert _previous((samples.ON_TRIAL, samples.UNDONE, samples.GENERATION, samples.OLDER)) == 7


def test_rollback_to_the_active_one_or_to_none_is_refused(cli: Cli) -> None:
    assert "is the one in force" in cli("rollback", "8").err
    assert "there is no generation 99" in cli("rollback", "99", "--yes").err


def test_rollback_of_a_rollback_wants_a_name(cli: Cli, controller: ScriptedAdmin) -> None:
    controller.rolled_back_to = 6
    ran = cli("rollback", "--yes")
    assert ran.code == Exit.FINDINGS
    assert "generation 8 is itself a rollback, to 6: name the GENERATION you want" in ran.err
    assert not any(isinstance(r, pb.RollbackRequest) for r in controller.asked)
    assert cli("rollback", "7", "--yes").code == Exit.OK


def test_history(cli: Cli) -> None:
    assert [g["number"] for g in cli("history", "--json").json] == [8, 7]
    shown = cli("history", "7")
    assert "version: 1" in shown.out
    assert "# shop.yaml" in shown.out


def test_status_and_its_exit_code(cli: Cli, controller: ScriptedAdmin) -> None:
    assert "All well" in cli("status").out
    assert cli("status", "--exit-code").code == Exit.OK
    controller.status.hosts[0].problems.append("look here")
    assert cli("status").code == Exit.OK
    ran = cli("status", "--exit-code")
    assert ran.code == Exit.FINDINGS
    assert "look here" in ran.out
    assert cli("status", "--json").json["hosts"][0]["listeners"][0]["address"] == "0.0.0.0"


def test_host_show_and_remove(cli: Cli, controller: ScriptedAdmin) -> None:
    controller.status.events.add(host="web1", event=agent_pb2.Event(kind="tamper", message="nft changed the rules"))
    controller.status.events.add(host="db1", event=agent_pb2.Event(kind="tamper", message="of another host"))
    shown = cli("host", "show", "web1").out
    assert "tcp/443" in shown
    assert "nft changed the rules" in shown
    assert "of another host" not in shown
    assert cli("host", "show", "web9").code == Exit.FINDINGS
    assert cli("host", "remove", "web1").code == Exit.USAGE
    assert cli("host", "remove", "web1", "--yes", "--json").json == {"removed": "web1"}
    assert controller.asked[-1] == pb.RemoveHostRequest(host="web1")


def test_tag_sets_removes_and_shows(cli: Cli, controller: ScriptedAdmin) -> None:
    assert "env=prod role=web" in cli("tag", "web1", "env=prod", "role=web", "loc-").out
    assert controller.asked[-1] == pb.SetTagsRequest(host="web1", set={"env": "prod", "role": "web"}, remove=["loc"])
    assert "web1: role=web" in cli("tag", "web1").out


@pytest.mark.parametrize("change", ["env", "=x", "env=", "a=b=c", "env=a env=b", "env=a env-"])
def test_a_malformed_tag_is_a_usage_error(cli: Cli, controller: ScriptedAdmin, change: str) -> None:
    assert cli("tag", "web1", *change.split()).code == Exit.USAGE
    assert controller.asked == []


def test_a_token_goes_to_stdout_and_everything_else_to_stderr(cli: Cli, controller: ScriptedAdmin) -> None:
    options = ("--tag", "role=web", "--network", "10.0.0.0/24", "--valid", "1h30m", "--uses", "2")
    ran = cli("token", "create", *options)
    assert ran.out == "THE-SECRET-LINE\n"
    assert "THE-SECRET-LINE" not in ran.err
    assert "3f9a" in ran.err
    request = pb.CreateTokenRequest(tags={"role": "web"}, networks=["10.0.0.0/24"], valid_seconds=5400, uses=2)
    assert controller.asked[-1] == request


def test_a_token_file_is_ours_alone_and_the_secret_is_nowhere_else(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "web.token"
    ran = cli("token", "create", "--out", str(path), "--json")
    assert path.read_text() == "THE-SECRET-LINE\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "THE-SECRET" not in ran.out + ran.err
    assert ran.json["file"] == str(path)


def test_a_token_is_not_made_when_it_has_no_place(cli: Cli, controller: ScriptedAdmin, tmp_path: Path) -> None:
    path = tmp_path / "web.token"
    path.write_text("mine")
    assert cli("token", "create", "--out", str(path)).code == Exit.USAGE
    assert cli("token", "create", "--out", str(tmp_path / "no" / "t")).code == Exit.USAGE
    assert controller.asked == []
    assert path.read_text() == "mine"


def test_a_refused_token_leaves_no_file(cli: Cli, controller: ScriptedAdmin, tmp_path: Path) -> None:
    controller.refusal = (grpc.StatusCode.PERMISSION_DENIED, "no")
    assert cli("token", "create", "--out", str(tmp_path / "t")).code == Exit.NOT_PERMITTED
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--tag", "role"),
        ("--tag", "a=1", "--tag", "a=2"),
        ("--network", "10.0.0.1/8"),
        ("--valid", "soon"),
        ("--valid", "10"),
        ("--host", "web1", "--uses", "2"),
    ],
)
def test_a_malformed_token_is_a_usage_error(cli: Cli, controller: ScriptedAdmin, options: tuple[str, ...]) -> None:
    assert cli("token", "create", *options).code == Exit.USAGE
    assert controller.asked == []


def test_token_list_and_revoke(cli: Cli, controller: ScriptedAdmin) -> None:
    assert "role=web" in cli("token", "list").out
    assert cli("token", "revoke", "3f9a", "--json").json == {"revoked": "3f9a"}
    assert controller.asked[-1] == pb.RevokeTokenRequest(id="3f9a")


@pytest.mark.parametrize("differs", [False, True])
def test_explain_exits_1_only_when_the_kernel_differs(cli: Cli, controller: ScriptedAdmin, differs: bool) -> None:
    controller.explanation.differs = differs
    ran = cli("explain", "web1", "db1", "tcp/5432")
    assert ran.code == int(differs)
    assert "web1 → db1  tcp/5432: denied" in ran.out
    assert controller.asked[-1].live
    end = controller.explanation.ends.add(host="db1", direction="ingress", verdict="denied", kernel_verdict="denied")
    end.kernel_detail = "10.0.0.1: denied (chain input > chain end0_in)"
    short, wide = cli("explain", "web1", "db1", "tcp/5432").out, cli("explain", "web1", "db1", "22", "--wide").out
    assert "IPv4: dropped" in short
    assert "chain" not in short
    assert "10.0.0.1: denied (chain input > chain end0_in)" in wide
    cli("explain", "web1", "db1", "tcp/5432", "--no-live")
    assert not controller.asked[-1].live


def test_denied(cli: Cli, controller: ScriptedAdmin) -> None:
    ran = cli("denied", "--host", "web1", "--workload", "host", "--since", "10m", "--limit", "5", "--wide")
    assert "web1/host (curl 812 root)" in ran.out
    assert "segctl explain web1/host db1 tcp/5432" in ran.out
    assert "7 more were denied" in ran.out
    request = controller.asked[-1]
    assert (request.host, request.workload, request.limit, request.follow) == ("web1", "host", 5, False)
    assert request.since_us == int(cli.app.clock().timestamp() * 1e6) - 600 * 10**6
    assert [(r["kind"]) for r in cli("denied", "--json").lines] == ["denial", "lost"]


def test_denied_aligns_where_nobody_watches_and_knows_its_hosts(cli: Cli, controller: ScriptedAdmin) -> None:
    longer = pb.DeniedReply()
    longer.CopyFrom(controller.denials[0])
    longer.connection.denial.process.exe = "/usr/bin/" + "x" * 90
    controller.denials.insert(1, longer)
    head, first, second, *_ = cli("denied").out.splitlines()
    assert head.index("PEER") == first.index("db1") == second.index("db1")
    assert "x" * 90 in second
    ran = cli("denied", "--host", "web9")
    assert ran.code == Exit.FINDINGS
    assert "no enrolled host is called 'web9'" in ran.err
    assert ran.out == ""


def test_a_plan_names_a_service_of_several_ports(cli: Cli, controller: ScriptedAdmin, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\nservices:\n  ping: [icmp/8, icmpv6/128]\n  web: [tcp/80, tcp/81, tcp/443]\n")
    changed = ("icmp/8", "icmpv6/128", "tcp/443", "tcp/80-81", "tcp/22")
    del controller.plan.changes[:]
    controller.plan.changes.extend(
        pb.Change(allowed=True, source="a", destination="b", service=s, rule="r", hosts=["web1"]) for s in changed
    )
    assert "+ a → b ping web tcp/22 on web1" in cli("plan", str(path)).out
    del controller.plan.changes[0]
    assert "+ a → b web icmpv6/128 tcp/22 on web1" in cli("plan", str(path)).out


def test_denied_with_nothing_to_show_says_so_on_stderr(cli: Cli, controller: ScriptedAdmin) -> None:
    controller.denials = []
    ran = cli("denied")
    assert (ran.out, ran.code) == ("", Exit.OK)
    assert "No connection was denied" in ran.err


def test_a_plan_names_the_connections_it_would_cut_and_who_did_not_tell(
    cli: Cli, controller: ScriptedAdmin, policy: Path
) -> None:
    controller.plan.cuts.append(CUT)
    controller.plan.cut_total = 41
    controller.plan.hosts.append("db1")
    controller.plan.unasked.append("db1")
    text = cli("plan", str(policy)).out
    assert "web1 nginx 812 www-data shop-web → db1  tcp/5432 web-to-db     1" in text
    assert "and 40 more" in text
    assert "41 live connections would be cut on the hosts that answered." in text
    assert "Not asked, or without an answer: db1" in text
    shown = cli("plan", "--json", str(policy)).json
    assert (shown["cut_total"], shown["unasked"]) == (41, ["db1"])
    [cut] = shown["cuts"]
    assert (cut["direction"], cut["peer_host"], cut["local_port"], cut["process"]["pid"]) == (
        "egress",
        "db1",
        40_000,
        812,
    )
    pushed = cli("push", str(policy))
    assert "41 live connections would be cut" in pushed.out
    assert not any(isinstance(r, pb.PushRequest) for r in controller.asked)


def test_a_plan_that_cuts_nothing_says_so(cli: Cli, policy: Path) -> None:
    assert "No live connection would be cut on the hosts that are connected." in cli("plan", str(policy)).out


def test_flows_asks_for_what_was_wished(cli: Cli, controller: ScriptedAdmin) -> None:
    ran = cli(
        "flows", "--host", "web1", "--workload", "shop-web", "--rule", "web-to-db", "--since", "2h", "--limit", "5"
    )
    assert ran.code == Exit.OK
    assert "web1/shop-web → db1/shop-db postgres web-to-db     3 700 B   9.0 kB" in ran.out
    assert "7 more were accepted" in ran.out
    request = controller.asked[-1]
    assert (request.host, request.workload, request.rule, request.limit) == ("web1", "shop-web", "web-to-db", 5)
    assert request.since_us == int(NOW.timestamp() - 7200) * 10**6
    cli("flows")
    assert controller.asked[-1].since_us == int(NOW.timestamp() - 86400) * 10**6


def test_flows_as_json_and_csv(cli: Cli) -> None:
    shown = cli("flows", "--json").json
    assert (shown["lost"], shown["flows"][0]["peer_workload"], shown["flows"][0]["flows"]) == (7, "shop-db", 3)
    [row] = csv.DictReader(io.StringIO(cli("flows", "--csv").out))
    assert row == {key: str(value) for key, value in shown["flows"][0].items()}
    assert cli("flows", "--csv", "--json").code == Exit.USAGE


def test_flows_says_when_there_are_none_or_may_be_more(cli: Cli, controller: ScriptedAdmin) -> None:
    assert "there may be more" in cli("flows", "--limit", "1").err
    controller.flows = pb.FlowsReply()
    ran = cli("flows")
    assert (ran.out, ran.code) == ("", Exit.OK)
    assert "No host has told of such a flow" in ran.err
    assert cli("flows", "--csv").out.startswith("host,workload,direction")


def test_flows_are_searched_by_every_field(cli: Cli, controller: ScriptedAdmin) -> None:
    cli("flows", "--address", "10.0.0.0/8", "--port", "tcp/5432", "--verdict", "denied", "--process", "curl")
    asked = controller.asked[-1]
    assert (asked.address, asked.protocol, asked.port) == ("10.0.0.0/8", "tcp", 5432)
    assert (asked.verdict, asked.process, asked.until_us) == ("denied", "curl", 0)
    cli("flows", "--port", "443", "--since", "2h", "--until", "1h")
    asked = controller.asked[-1]
    assert (asked.protocol, asked.port, asked.until_us) == ("", 443, int(NOW.timestamp() - 3600) * 10**6)
    cli("flows", "--port", "udp")
    assert (controller.asked[-1].protocol, controller.asked[-1].HasField("port")) == ("udp", False)
    for wrong in (("--port", "http"), ("--port", "70000"), ("--until", "2d"), ("--verdict", "no"), ("--top", "--csv")):
        assert cli("flows", *wrong).code == Exit.USAGE


def test_flows_top(cli: Cli, controller: ScriptedAdmin) -> None:
    assert "web1/shop-web  700 B         -      3  never" in cli("flows", "--top", "--limit", "7").out
    assert controller.asked[-1].limit == 7
    assert cli("flows", "--top", "--json").json[0]["host"] == "web1"
    controller.talkers = pb.TopTalkersReply()
    assert "No host has told of a flow" in cli("flows", "--top").err
    assert cli("flows", "--top", "--host", "web1").code == Exit.USAGE


def test_map_as_text_json_and_graph(cli: Cli, controller: ScriptedAdmin) -> None:
    ran = cli("map", "--by", "app, role")
    assert "app=shop role=web\n  →  peer office  tcp/5432      3  9.7 kB  never  2 of 3 denied: no rule" in ran.out
    assert "There are more edges" in ran.err
    assert list(controller.asked[-1].by) == ["app", "role"]
    [edge] = cli("map", "--json").json["edges"]
    assert edge["source"]["tags"] == {"app": "shop", "role": "web"}
    assert (edge["destination"]["tags"], edge["destination"]["peer"]) == (None, "office")
    assert (edge["verdict"], edge["verdicts"]["denied"], edge["comparison"]) == ("denied", 2, None)
    assert edge["reasons"][0] == {
        "end": "source",
        "verdict": "denied",
        "reason": "default",
        "rule": "",
        "flows": 2,
        "owner": "",
    }
    assert '"app=shop role=web" -> "peer office" [label="tcp/5432"' in cli("map", "--dot").out
    assert cli("map", "--dot", "--json").code == Exit.USAGE
    controller.map = pb.FlowMapReply()
    assert "No host has told of a flow" in cli("map").err


def test_map_asks_for_ends_details_and_moments(cli: Cli, controller: ScriptedAdmin) -> None:
    cli(
        "map",
        "--from",
        "env=prod,role=web",
        "--to",
        "peer:office, 203.0.113.0/24",
        "--port",
        "tcp/443",
        "--detail",
        "host",
    )
    asked = controller.asked[-1]
    assert dict(asked.source.tags) == {"env": "prod", "role": "web"}
    end = asked.destination
    assert (end.outside, end.peer, end.network, asked.detail) == (True, "office", "203.0.113.0/24", "host")
    assert (asked.protocol, asked.port) == ("tcp", 443)
    cli(
        "map",
        "--to",
        "outside",
        "--from",
        "host:web1,process:unit:nginx.service",
        "--at",
        "2026-11-20T12:00",
        "--since",
        "2h",
    )
    asked = controller.asked[-1]
    assert (asked.source.host, asked.source.process, asked.destination.peer) == ("web1", "unit:nginx.service", "any")
    noon = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * 1_000_000
    assert (asked.at_us, asked.since_us, asked.until_us) == (noon, noon - 7_200_000_000, noon)
    cli("map", "--at", "2d", "--until", "1h", "--generation", "7")
    asked = controller.asked[-1]
    assert (asked.at_us - asked.since_us, asked.at_us - asked.until_us) == (86_400_000_000, 3_600_000_000)
    assert asked.generation == 7
    for wrong in (("--at", "noon"), ("--to", "office"), ("--from", "outside,role=web"), ("--detail", "cpu")):
        assert cli("map", *wrong).code == Exit.USAGE


def test_plan_looks_back_as_far_as_asked(cli: Cli, controller: ScriptedAdmin, policy: Path) -> None:
    cli("plan", str(policy))
    assert not any(isinstance(asked, pb.DraftImpactFlowsRequest) for asked in controller.asked)
    assert "7 flows of the 9 since" in cli("plan", str(policy), "--since", "7d").out
    assert controller.asked[-1].span_us == 0
    replayed = cli("plan", str(policy), "--replay", "7d").out
    assert controller.asked[-1].span_us == 86_400_000_000
    assert re.search(r"^Flows since \S+ \S+, replayed$", replayed, re.MULTILINE)
    assert "The same" not in replayed  # no flow of it is listed before
    assert cli("plan", str(policy), "--since", "7d", "--replay", "7d").code == Exit.USAGE


def test_report_rules(cli: Cli, controller: ScriptedAdmin) -> None:
    text = cli("report", "rules").out
    assert "web-to-db  1,234" in text
    assert "Never hit, as far as hosts have told: 1 of 2 rules\n  idle\n\n2 rules need a look\n" in text
    assert cli("report", "rules", "--unused").out == "Never hit, as far as hosts have told: 1 of 2 rules\n  idle\n"
    assert [use["rule"] for use in cli("report", "rules", "--unused", "--json").json] == ["idle"]
    [idle, used] = cli("report", "rules", "--json").json
    assert (idle["hits"], idle["last_hit"], used["hits"], used["hosts"], used["in_policy"]) == (0, None, 1234, 2, True)
    assert used["last_hit"].startswith("2026-")
    cli("report", "rules", "--rule", "idle")
    assert controller.asked[-1].rule == "idle"
    life = pb.RuleLife(use=pb.RuleUse(rule="r", count=1, last_hit_us=T0, hosts=1, in_policy=True))
    controller.rules = pb.RuleReportReply(rules=[life])
    assert "Every rule was hit" in cli("report", "rules", "--unused").err
    assert "Nothing is wrong with any rule" in cli("report", "rules", "--findings").err


def test_what_is_wrong_with_rules(cli: Cli, controller: ScriptedAdmin) -> None:
    ran = cli("report", "rules", "--findings", "--stale", "90d", "--soon", "48h")
    assert (controller.asked[-1].stale_days, controller.asked[-1].soon_days) == (90, 2)
    assert ran.out.startswith("2 rules need a look\n\nidle  team-shop\n  never-hit     never hit in the 40 days\n")
    assert "version: 1" not in ran.out
    assert "--rule NAME shows the narrower rule" in ran.err
    assert "    version: 1\n" in cli("report", "rules", "--rule", "web-to-db").out
    [idle, used] = cli("report", "rules", "--findings", "--json").json
    assert (idle["owner"], [f["kind"] for f in idle["findings"]]) == ("team-shop", ["never-hit"])
    assert used["findings"][0]["narrower"] == "version: 1\nrules: []\n"
    assert cli("report", "rules").code == Exit.OK
    assert cli("report", "rules", "--exit-code").code == Exit.FINDINGS
    for wrong in (("--unused", "--findings"), ("--stale", "5h"), ("--stale", "9999d")):
        assert cli("report", "rules", *wrong).code == Exit.USAGE
    controller.rules.more = True
    assert "none is called too broad" in cli("report", "rules").err
    del controller.rules.rules[:]
    assert cli("report", "rules", "--exit-code").code == Exit.OK


@pytest.mark.parametrize(
    ("words", "index", "offered"),
    [
        ("segctl fl", 1, "flows"),
        ("segctl rep", 1, "report"),
        ("segctl report r", 2, "rules"),
        ("segctl flows --c", 2, "--csv"),
    ],
)
def test_the_shell_completes_new_commands(words: str, index: int, offered: str) -> None:
    command = f"COMP_WORDS='{words}' COMP_CWORD={index} _SEGCTL_COMPLETE=bash_complete {SEGCTL}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert f"plain,{offered}" in done.stdout.splitlines(), done.stderr


def test_audit(cli: Cli) -> None:
    assert cli("audit", "--json").json[0]["actor"] == "alice"


def test_an_unknown_command_is_met_with_the_nearest(offline: Cli) -> None:
    ran = offline("stats")
    assert ran.code == Exit.USAGE
    assert "Did you mean 'status'?" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(offline: Cli, shell: str) -> None:
    ran = offline("completion", shell)
    assert ran.code == Exit.OK
    assert "_SEGCTL_COMPLETE" in ran.out


@pytest.mark.parametrize("stored", [False, True])
def test_ctrl_c_says_what_state_things_are_in(cli: Cli, controller: ScriptedAdmin, policy: Path, stored: bool) -> None:
    controller.hold_push.clear()
    controller.hold_store = not stored
    command = [
        sys.executable,
        "-u",
        "-m",
        "segctl.cli",
        "push",
        str(policy),
        "--yes",
        "--config",
        str(cli.app.directory),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        awaited = "on trial until" if stored else "policy tests ran"
        while awaited not in process.stdout.readline():
            assert process.poll() is None
        assert controller.pushing.wait(10)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == Exit.INTERRUPTED, err
    if stored:
        assert "but the push of generation 9 goes on: it ends without us" in err
        assert "segctl rollback" in err
    else:
        assert "before the controller said that it stored anything" in err
    assert "Traceback" not in err
