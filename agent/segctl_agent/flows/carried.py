"""Which decision ids live flows carry: asked before ids are given that may have been given before."""

from __future__ import annotations

import logging
from collections.abc import Collection

from segctl.errors import KernelError

from segctl_agent.conntrack.reader import ConntrackReader
from segctl_agent.flows.decisions import DecisionId
from segctl_agent.flows.live import ids_in_use
from segctl_agent.flows.values import Marks

log = logging.getLogger(__name__)

_ALL = 1 << 32
"""An entry that was left out might carry the very id that is given next."""


def carried_ids(layout: Marks) -> Collection[DecisionId]:
    """Without conntrack's dumps ids are given all the same: not to enforce would be worse."""
    try:
        return ids_in_use(ConntrackReader(max_rows=_ALL).read(), layout)
    except KernelError as error:
        log.warning("whether flows bear old decision ids is not known: %s", error)
        return ()
