"""libnftables, through the nftables bindings: another's words for the same table. Nothing here is on a hot path.

It loads text, which proves our builders and our text against it and is the second way for a batch (`fallback`), and
lists chains, which gives words to rules that we never rendered. Sets keyed by cgroup must not be listed with it: it
walks the whole cgroup tree for each element. It is imported when it is used: it costs megabytes.
"""

from __future__ import annotations

from segctl.errors import KernelError

from segctl_agent.nft.ruleset import TABLE

_MOST_SAID = 600


def load_text(text: str) -> None:
    """Runs nft commands in one transaction, in the network namespace of the caller. Raises KernelError with what
    libnftables says."""
    _run(text)


def chain_lines(chain: str) -> tuple[str, ...]:
    """The rules of one of our chains in libnftables' words, in order. Raises KernelError."""
    lines = [line.strip() for line in _run(f"list chain inet {TABLE} {chain}").splitlines()]
    body = lines[lines.index(f"chain {chain} {{") + 1 : -2]
    return tuple(line for line in body if not line.startswith("type "))


def _run(command: str) -> str:
    try:
        import nftables

        code, output, error = nftables.Nftables().cmd(command)
    except (OSError, ImportError) as e:
        raise KernelError(f"libnftables cannot be loaded: {e}. Install the package libnftables1") from e
    if code:
        said = error.strip()  # it repeats the command, however long that is
        raise KernelError(f"libnftables: {said if len(said) <= _MOST_SAID else f'{said[:_MOST_SAID]} ...'}")
    return str(output)
