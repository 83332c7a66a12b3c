"""The demo counts what is not so, and shows commands as a terminal does."""

import subprocess
import sys

from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile

from lab.chapters_change import rule_file
from lab.fleet import Answer
from lab.flows import Flow, Tried
from lab.screen import Screen
from lab.story import Story, excerpt


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


class ScriptedFleet:
    """Its `segctl` is a Python program that is given the arguments."""

    def __init__(self, program):
        self.argv = [sys.executable, "-c", program]

    def segctl(self, *arguments):
        return subprocess.run([*self.argv, *arguments], capture_output=True, text=True, check=False)

    def segctl_started(self, *arguments, output):
        argv = [*self.argv, *arguments]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True)


WIDTH = "import os, sys; print(sys.argv[1], sys.stdout.isatty() and os.get_terminal_size().columns); sys.exit(3)"


def test_segctl_writes_to_a_terminal_of_the_width_that_there_is():
    assert Screen(57).show(ScriptedFleet(WIDTH), "plan") == (3, "plan 57\n")
    assert Screen(0).show(ScriptedFleet(WIDTH), "plan") == (3, "plan False\n")


def test_what_a_terminal_gets_is_whole():
    fleet = ScriptedFleet("for number in range(20000): print(number)")
    assert Screen(80).show(fleet)[1].splitlines() == [str(number) for number in range(20000)]


def test_a_plan_that_was_shown_is_left_out_also_in_colour(capsys):
    story = Story(ScriptedFleet("print('the plan'); print(chr(27) + '[2mGeneration 2' + chr(27) + '[0m is stored')"))
    story.segctl("push", after="Generation")
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:] == ["   ... the plan", "   \x1b[2mGeneration 2\x1b[0m is stored"]


def test_a_command_that_fails_is_a_failure_of_the_demo():
    story = Story(ScriptedFleet(WIDTH))
    story.segctl("plan")
    assert story.failures == ["step 0: segctl plan succeeds (seen: it ended with 3)"]


def test_an_excerpt_has_the_paragraphs_that_matter_and_says_that_others_were_there():
    text = "Plan\n\nwould block\n  web1\n\nModes\n\nHosts\n\n+1 allowed, -0 denied"
    assert excerpt(text, ("block", "allowed, -")) == "...\nwould block\n  web1\n...\n+1 allowed, -0 denied"
    assert excerpt(text, ()) == text
