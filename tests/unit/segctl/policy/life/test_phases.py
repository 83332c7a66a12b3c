"""The change of policy files from one phase to another: what it says, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.policy import Mode, Selector
from segctl.policy.life.past import mode_of
from segctl.policy.life.phases import LADDER, PhaseError, phase_after, phase_before, with_mode
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile

from tests.shop import sel

HEAD = "version: 1\ntags: {env: [dev, prod], app: [shop]}\n"
PROD, DEV, SHOPS = sel(env="prod"), sel(env="dev"), sel(app="shop", env="prod")


def moved(text: str, selector: Selector, mode: Mode) -> str:
    """The only file of the policy after the change."""
    file = SourceFile("p.yaml", text.encode())
    policy = parse_policy([file]).policy
    assert policy is not None, parse_policy([file]).findings
    changed = with_mode([file], policy, selector, mode)
    return changed["p.yaml"].decode() if changed else text


@pytest.mark.parametrize(
    ("modes", "selector", "after"),
    [
        (
            "modes:\n  # why\n  - {select: {env: prod}, mode: test}   # May\n  - {select: {env: dev}, mode: test}\n",
            PROD,
            "modes:\n  # why\n  - {select: {env: prod}, mode: enforce}   # May\n  - {select: {env: dev}, mode: test}\n",
        ),
        (
            "modes:\n- mode: 'test' # x\n  select:\n    env:   prod\n  outgoing: drop\nrules: []\n",
            PROD,
            "modes:\n- mode: 'enforce' # x\n  select:\n    env:   prod\n  outgoing: drop\nrules: []\n",
        ),
        (
            "modes:\r\n- {select: {env: dev}, mode: test} #\r\n\r\n# end\r\n",
            PROD,
            "modes:\r\n- {select: {env: dev}, mode: test} #\r\n- {select: {env: prod}, mode: enforce}\r\n\r\n# end\r\n",
        ),
        (
            "modes:\n- select: {env: dev}\n  mode: observe",
            SHOPS,
            "modes:\n- select: {env: dev}\n  mode: observe\n- {select: {app: shop, env: prod}, mode: enforce}\n",
        ),
        (
            "modes: [{select: {env: dev}, mode: test}] # one line\n",
            PROD,
            "modes: [{select: {env: dev}, mode: test}, {select: {env: prod}, mode: enforce}] # one line\n",
        ),
        ("modes: []\n", sel("host"), "modes: [{select: {workload: host}, mode: enforce}]\n"),
        ("rules: []", sel(), "rules: []\n\nmodes:\n  - {select: {}, mode: enforce}\n"),
    ],
)
def test_only_the_mode_changes(modes: str, selector: Selector, after: str) -> None:
    assert moved(HEAD + modes, selector, Mode.ENFORCE) == HEAD + after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (
            "{version: 1, tags: {env: [prod]}}\n",
            "{version: 1, tags: {env: [prod]}, modes: [{select: {env: prod}, mode: enforce}]}\n",
        ),
        (
            "--- {\n  version: 1,\n  tags: {env: [prod]}, # a\n} # e\n",
            "--- {\n  version: 1,\n  tags: {env: [prod]}, modes: [{select: {env: prod}, mode: enforce}], # a\n} # e\n",
        ),
        (
            "{version: 1, modes: [{select: {env: prod}, mode: test}], tags: {env: [prod]}}",
            "{version: 1, modes: [{select: {env: prod}, mode: enforce}], tags: {env: [prod]}}",
        ),
        (
            "{version: 1, modes: [], tags: {env: [prod]}}",
            "{version: 1, modes: [{select: {env: prod}, mode: enforce}], tags: {env: [prod]}}",
        ),
        (
            '{"version": 1, "tags": {"env": ["prod"]}}',
            '{"version": 1, "tags": {"env": ["prod"]}, "modes": [{"select": {"env": "prod"}, "mode": "enforce"}]}',
        ),
        (
            '{"version": 1, "tags": {"env": ["prod"]}, "modes": [{"mode": "test", "select": {"env": "prod"}}]}',
            '{"version": 1, "tags": {"env": ["prod"]}, "modes": [{"mode": "enforce", "select": {"env": "prod"}}]}',
        ),
        (
            "---\nversion: 1\ntags: {env: [prod]}\n# end\n...\n",
            "---\nversion: 1\ntags: {env: [prod]}\n# end\n\nmodes:\n  - {select: {env: prod}, mode: enforce}\n...\n",
        ),
        (
            "  version: 1\n  tags: {env: [prod]}",
            "  version: 1\n  tags: {env: [prod]}\n\n  modes:\n    - {select: {env: prod}, mode: enforce}\n",
        ),
    ],
)
def test_files_in_braces_with_marks_or_indented_are_changed_too(text: str, after: str) -> None:
    assert moved(text, PROD, Mode.ENFORCE) == after
    if text.startswith('{"'):
        json.loads(after)


def test_a_byte_order_mark_and_wide_characters_stay() -> None:
    text = "\ufeff" + HEAD + "modes: # größer als 日本 🐘\n  - {select: {env: prod}, mode: test} # ü\n"
    assert moved(text, PROD, Mode.OBSERVE) == text.replace("mode: test", "mode: observe")


def test_the_file_with_the_last_entry_takes_a_new_one() -> None:
    files = [
        SourceFile("a.yaml", HEAD.encode()),
        SourceFile("b.yaml", b"version: 1\nmodes:\n  - {select: {env: dev}, mode: test}\n"),
    ]
    policy = parse_policy(files).policy
    assert policy is not None
    assert list(with_mode(files, policy, PROD, Mode.TEST)) == ["b.yaml"]
    assert with_mode(files, policy, DEV, Mode.TEST) == {}


def test_every_entry_of_the_selector_goes_back() -> None:
    text = HEAD + "modes:\n  - {select: {env: prod}, mode: enforce}\n  - {select: {env: prod}, mode: enforce}\n"
    assert moved(text, PROD, Mode.TEST) == text.replace("enforce", "test")


def test_another_entry_that_is_stricter_is_named() -> None:
    text = HEAD + "modes:\n  - {select: {env: prod}, mode: enforce}\n  - {select: {env: prod, app: shop}, mode: test}\n"
    with pytest.raises(PhaseError) as caught:
        moved(text, SHOPS, Mode.OBSERVE)
    assert "p.yaml:4:5 has env=prod in enforce; move that entry" in str(caught.value)


def test_what_cannot_be_changed_so_is_refused_with_what_to_write() -> None:
    with pytest.raises(PhaseError) as caught:
        moved(HEAD + "modes:\n  - mode: >-\n      test\n    select: {env: prod}\n", PROD, Mode.ENFORCE)
    assert "p.yaml" in str(caught.value)
    assert str(caught.value).endswith("by hand, in place of the one for env=prod: {select: {env: prod}, mode: enforce}")


def test_two_entries_of_one_selector_are_not_cut_where_one_cannot_be_changed() -> None:
    block = "  - mode: >-\n      enforce\n    incoming: drop\n    select: {env: prod}\n"
    with pytest.raises(PhaseError, match="by hand"):
        moved(HEAD + "modes:\n  - {select: {env: prod}, mode: enforce}\n" + block, PROD, Mode.TEST)


def test_phases_are_a_ladder() -> None:
    assert [phase_after(mode) for mode in LADDER] == [Mode.TEST, Mode.ENFORCE, None]
    assert [phase_before(mode) for mode in LADDER] == [None, Mode.OBSERVE, Mode.TEST]


SELECTORS = (PROD, DEV, SHOPS, sel(), sel("host"), sel("host", env="prod"))
entries = st.lists(st.tuples(st.sampled_from(SELECTORS), st.sampled_from(Mode), st.integers(0, 3)), max_size=5)


def written(select: Selector, mode: Mode, style: int) -> list[str]:
    """One entry in one of the styles that people have."""
    words = {**({"workload": select.workload} if select.workload else {}), **dict(select.tags.pairs)}
    inside = ", ".join(f"{key}: {value}" for key, value in words.items())
    return (
        [f"  - {{select: {{{inside}}}, mode: {mode.value}}}"],
        [f"  - select: {{{inside}}}", "", "    # of it", f"    mode: {mode.value}   # until May"],
        [f"  -   mode:   '{mode.value}'", f"      select:   {{{inside}}} # ü", "  # between"],
        [f"  - {{mode: {mode.value}, # first", f"     select: {{{inside}}},}}"],
    )[style]


@settings(max_examples=100, deadline=None)
@given(entries, st.sampled_from(SELECTORS), st.sampled_from(Mode), st.booleans(), st.sampled_from(("\n", "\r\n")))
def test_the_policy_says_the_new_mode_and_else_the_same(
    said: list[tuple[Selector, Mode, int]], selector: Selector, mode: Mode, last: bool, line_end: str
) -> None:
    lines = [line for entry in said for line in written(*entry)]
    section = ["modes:", *lines] if said else ["modes: []"]
    text = line_end.join([HEAD.replace("\n", line_end), *section, *([] if last else ["", "# next", "rules: []", ""])])
    file = SourceFile("p.yaml", text.encode())
    policy = parse_policy([file]).policy
    assert policy is not None
    try:
        changed = with_mode([file], policy, selector, mode).get("p.yaml", file.content).decode()
    except PhaseError:
        assert any(e.mode.strictness > mode.strictness and e.select != selector for e in policy.modes)
        return
    after = parse_policy([SourceFile("p.yaml", changed.encode())]).policy
    assert after is not None
    assert mode_of(after, selector) is mode
    others = [[e for e in p.modes if e.select != selector] for p in (policy, after)]
    assert others[0] == others[1]
    assert replace(after, modes=()) == replace(policy, modes=())
    if len(policy.modes) == len(after.modes):
        assert len(changed.splitlines()) == len(text.splitlines())
    elif said:
        assert [line for line in changed.splitlines() if line in text.splitlines()] == text.splitlines()
