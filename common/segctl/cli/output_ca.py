"""The fleet's CA in `segctl status`: said only while it is rotated, or ends."""

from __future__ import annotations

from datetime import datetime, timedelta

from segctl.cli.output import Line, count, line, note, warn
from segctl.cli.views import CaStatus

CA_SOON = timedelta(days=60)
CONTROLLER_SOON = timedelta(days=14)
"""The controller renews its own certificate at half of 90 days."""
COMMAND = "segctl-controller ca"


def render_ca(ca: CaStatus, now: datetime) -> list[Line]:
    lines = []
    if ca.stage == "prepared":
        lines += [line(warn("The fleet's CA is rotated"), ": the next one is trusted, and signs nothing yet.")]
        lines += [_next(f"{COMMAND} activate, on the controller")]
    elif ca.stage == "active":
        left = sum(one.hosts for one in ca.cas if not one.signs)
        done = f"{count(left, 'host')} with a certificate of the old one" if left else "every host's is of the new one"
        lines += [line(warn("The fleet's CA is rotated"), f": {done}.")]
        lines += [_next(f"{COMMAND} {'status' if left else 'retire'}, on the controller")]
    signing = next((one for one in ca.cas if one.signs), None)
    if ca.stage == "steady" and signing is not None and signing.until is not None and signing.until - now < CA_SOON:
        lines += [line(warn(f"The fleet's CA ends {signing.until:%Y-%m-%d}."))]
        lines += [_next(f"{COMMAND} rotate, on the controller")]
    if ca.controller_until is not None and ca.controller_until - now < CONTROLLER_SOON:
        lines += [line(warn(f"The controller's certificate ends {ca.controller_until:%Y-%m-%d}."))]
        lines += [_next("segctl-controller doctor, on the controller")]
    return lines


def _next(command: str) -> Line:
    return line("  ", note("→ "), command)
