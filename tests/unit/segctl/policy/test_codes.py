from __future__ import annotations

import re
from pathlib import Path

from segctl.policy.codes import CODES

_REPOSITORY = Path(__file__).parents[4]
_PACKAGE = _REPOSITORY / "common" / "segctl" / "policy"


def test_every_code_is_documented() -> None:
    reference = (_REPOSITORY / "docs" / "policy.md").read_text().partition("## Findings")[2]
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", reference, re.MULTILINE)
    assert sorted(documented) == sorted(CODES)


def test_every_code_is_used() -> None:
    """A code that nothing reports is a promise that nobody keeps."""
    text = "".join(path.read_text() for path in _PACKAGE.rglob("*.py") if path.name != "codes.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []
