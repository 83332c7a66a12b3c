"""The measures of bench/measures_fleet, as bench/runner.py runs them: one after the other, each in its own process."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from bench import measures_fleet
from bench.runner import Measure

OUT = Path(__file__).parent.parent / "out" / "fleet.json"
SECONDS = 600.0
"""For a module that does not say how long it takes."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(measures_fleet.__path__))


def measures(only: Iterable[str] | None = None) -> list[Measure]:
    """All modules there, or those of these names."""
    package = measures_fleet.__name__
    found = []
    for name in names() if only is None else only:
        module = importlib.import_module(f"{package}.{name}")
        if hasattr(module, "measure"):
            found.append(Measure(name, sandboxed=False, seconds=getattr(module, "SECONDS", SECONDS), package=package))
    return found
