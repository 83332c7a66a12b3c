"""The second part of the demo: a fleet that nobody segmented gets a policy from what was seen of it. A person decides
every step, and sees before it what it would do."""

from __future__ import annotations

from lab.secondfleet import SecondFleet
from lab.story import Demo, Story
from tests.shopdependencies import ATTACK

BREAK_IN = "nginx.service on app=shop,env=prod,role=web"
SHOWN = "nginx-to-shop-api"
ANSWERS = "... the plan, and what each host answered"


def from_what_was_seen(demo: Demo, second: SecondFleet) -> None:
    """All chapters, told at the second fleet."""
    story = demo.story.at(second)
    unsegmented(story, second)
    rules = suggested(story, second)
    left_out(story, second)
    decide(story, second, rules)
    what_it_would_do(story, second)
    test(story, second)
    enforce(story, second)


def unsegmented(story: Story, second: SecondFleet) -> None:
    second.ready()
    story.step(
        "Where does a policy come from? Another fleet: ten servers that nobody segmented.",
        "A week of systemd machines, recorded by their agents, an attack among it. A controller was told that week;",
        "it ended a week ago. The hosts are recordings: they answer pushes, and have no kernel.",
    )
    told = story.segctl("map", "--since", "14d", "--by", "role")
    edges = [text for text in told.splitlines() if "→" in text]
    story.check(all(text.endswith("no rule") for text in edges), "no rule says any of this", f"{len(edges)} edges")


def suggested(story: Story, second: SecondFleet) -> list[str]:
    """Their names."""
    story.step(
        "Few rules would permit it.", "By tag and process, never by host; what was seen of each stands above it."
    )
    story.segctl("suggest", after="rules:", instead="... services, peers and workloads that the rules name")
    found = second.document("suggest")["suggestions"]
    story.check(0 < len(found) < 10, f"{len(found)} rules for {sum(one['flows'] for one in found):,} flows")
    return [one["rule"] for one in found]


def left_out(story: Story, second: SecondFleet) -> None:
    story.step("And what is no rule?", "On one day somebody broke into a web server, and went on from there.")
    story.segctl("suggest", "--left-out")
    left = [one for group in second.document("suggest", "--left-out") for one in group["observations"]]
    story.check(any(one["source"] == BREAK_IN for one in left), "what the broken-in nginx tried is not suggested")


def decide(story: Story, second: SecondFleet, rules: list[str]) -> None:
    story.step("A person looks at each, and accepts, edits or rejects it.", "What is accepted is a diff for git.")
    story.segctl("review", "show", SHOWN)
    for rule in rules:
        story.typed(f"segctl review accept {rule} policy | git apply")
        second.accept(rule)
    files = sorted(path.name for path in second.policy.iterdir())
    story.check(len(files) == len(rules) + 1, f"one file for each of {len(rules)} rules, and nothing is in force yet")


def what_it_would_do(story: Story, second: SecondFleet) -> None:
    story.step("What would it have done, were it enforced in that week?")
    draft = second.directory / "draft"
    draft.mkdir()
    for path in second.policy.iterdir():
        (draft / path.name).write_text(path.read_text().replace("mode: observe", "mode: enforce"))
    story.typed("cp -r policy draft; sed -i 's/mode: observe/mode: enforce/' draft/fleet.yaml")
    told = story.segctl("plan", "--since", "14d", "draft", only=("would block", "allowed, -"))
    attack = sum(row.flows for row in second.recording.flows if any(one.has(second.recording, row) for one in ATTACK))
    blocks = any(text.startswith(f"{attack} flows of the ") for text in told.splitlines())
    story.check(blocks, "it blocks the attack, and nothing else", f"{attack} flows")


def test(story: Story, second: SecondFleet) -> None:
    story.step("First a test: nothing is dropped, and what no rule permits is told.")
    story.segctl("enforce", "everything", "policy", "--write", quiet=True)
    story.segctl("push", "policy", "--yes", "--message", "what was seen, in test", after="Pushed.", instead=ANSWERS)
    early = second.segctl("enforce", "everything", "policy")
    why = next((text for text in early.stderr.splitlines() if text.startswith("error: ")), "")
    story.check(early.returncode == 1, "and segctl refuses to enforce it before a week has shown that it holds", why)
    story.step("A week goes by.", "The recorded one once more, without the attack, told to the policy in force.")
    second.second_week()
    told = story.segctl("enforce", "--ready")
    story.check(
        "ready to enforce" in told, "it may be enforced", "seven days, every flow explained, no periodic job is missing"
    )


def enforce(story: Story, second: SecondFleet) -> None:
    story.step("Enforce it.")
    story.segctl("enforce", "everything", "policy", "--write", quiet=True)
    story.segctl("plan", "--since", "7d", "policy", only=("allowed, -",))
    story.segctl("push", "policy", "--yes", "--message", "what was seen, enforced", after="Pushed.", instead=ANSWERS)
    story.segctl("history")
    more = second.document("suggest")["suggestions"]
    story.check(more == [], "every workload of ten hosts enforces, and no rule is left to suggest")
