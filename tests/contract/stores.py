"""The stores that the contract is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.postgres import Postgres
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import Limits
from segctl_controller.store.sql import SqlStore


def make_store(request: pytest.FixtureRequest, directory: Path, limits: Limits) -> Store:
    """The one that the parameter names."""
    if request.param == "sqlite":
        return SqlStore(directory / "controller.db", limits)
    if request.param == "postgres":
        return SqlStore(Postgres(request.getfixturevalue("postgres")).checked(), limits)
    return MemoryStore(limits)
