"""The key under which the root's conftest.py notes that a test failed: `request.node.stash.get(FAILED, False)`."""

from __future__ import annotations

import pytest

FAILED = pytest.StashKey[bool]()
