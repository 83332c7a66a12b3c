"""Options that several commands of segctl-controller have."""

from __future__ import annotations

from pathlib import Path

import click

STATE = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default="/var/lib/segctl-controller",
    envvar="SEGCTL_CONTROLLER_STATE",
    show_default=True,
    help="The controller's state directory: CA, database, configuration.",
)
