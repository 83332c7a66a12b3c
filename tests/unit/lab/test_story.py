"""The demo counts what is not so."""

from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile

from lab.chapters_change import rule_file
from lab.fleet import Answer
from lab.flows import Flow, Tried
from lab.story import Story


def test_a_check_that_fails_is_kept_for_the_end(capsys):
    story = Story(fleet=None)
    story.step("first")
    story.check(True, "one")
    story.check(False, "two", "three")
    assert story.failures == ["step 1: two (seen: three)"]
    assert "✔ one" in capsys.readouterr().out


def test_a_flow_that_must_pass_must_also_be_answered_by_the_right_one():
    flow = Flow("web1", "nginx.service", "api1", 8080, True, hears="postgres")
    assert Tried(flow, "4", Answer(True, "postgres 15")).holds
    assert not Tried(flow, "4", Answer(True, "rogue")).holds
    assert not Tried(flow, "6", Answer(False, "postgres")).holds


def test_a_refused_flow_holds_only_when_nothing_answered():
    flow = Flow("dev1", "", "db1", 22, False)
    assert Tried(flow, "4", Answer(False, "no answer")).holds
    assert not Tried(flow, "4", Answer(True, "SSH")).holds


def test_a_suggested_rule_becomes_a_file_of_the_policy_language():
    rule = "version: 1\nrules:\n- name: cron\n  from: {workload: host}\n  to: {workload: host}\n  allow: [tcp/80]\n"
    rule += "  owner: CHANGE-ME\n  why: CHANGE-ME\n"
    result = parse_policy([SourceFile("suggested.yaml", rule_file(rule).encode())])
    assert result.policy is not None, result.findings
    assert [(one.name, one.owner) for one in result.policy.rules] == [("cron", "team-shop")]
