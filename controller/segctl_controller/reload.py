"""SIGHUP, which `systemctl reload` sends: controller.json is read again. Pure but for the reading."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from segctl_controller.config import Config, load_config


def needs_restart(running: Config, found: Config) -> tuple[str, ...]:
    """The names of the settings that differ and that a running controller cannot take over."""
    return tuple(f.name for f in fields(Config) if getattr(running, f.name) != getattr(found, f.name))


def describe_reload(directory: Path, running: Config) -> str:
    """Raises StateError, of a file that would hinder the next start."""
    changed = needs_restart(running, load_config(directory))
    if not changed:
        return "controller.json is as it was"
    return f"controller.json has another {', '.join(changed)}: `systemctl restart segctl-controller` uses it"
