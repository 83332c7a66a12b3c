"""Open files: a connection is one, at each end."""

from __future__ import annotations

import resource

SPARE = 500
"""Files that a process has open beside its connections."""


def raise_file_limit(connections: int = 0) -> None:
    """As far as this user may. Raises RuntimeError when that is not enough for `connections`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if connections + SPARE > most:
        raise RuntimeError(
            f"{connections} connections need as many open files, and this user may have {most}: raise the limit "
            "(ulimit -Hn, LimitNOFILE=, /etc/security/limits.conf), or spread the agents over more machines"
        )
