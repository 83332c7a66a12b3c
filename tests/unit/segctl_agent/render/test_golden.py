"""Rendered rulesets as text, reviewed as files. UPDATE_GOLDEN=1 rewrites them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from segctl_agent.nft.text import to_text

from tests.decided import rendered
from tests.netns.samples import SAMPLES, SHOP_FACTS

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.mark.parametrize("name", SAMPLES)
def test_golden(name: str) -> None:
    paths = {number: path for path, number in SHOP_FACTS.cgroups.items()}
    text = to_text(rendered(SAMPLES[name], SHOP_FACTS, 1), paths)
    file = GOLDEN / f"{name}.nft"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), "the rendering changed: look at the difference, then UPDATE_GOLDEN=1 pytest"


def test_every_file_has_its_sample() -> None:
    assert {f.stem for f in GOLDEN.glob("*.nft")} == set(SAMPLES)
