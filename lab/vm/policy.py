"""The example policy for machines that are administered from a network of their own. `python3 -m lab.vm.policy TARGET
NETWORK...` writes it for the Vagrantfile."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shop"
RESCUE = 'from: [10.77.0.10/32, "fd77::10/128"]'


def write_policy(target: Path, networks: Sequence[str]) -> Path:
    """Copy the example to `target`, with `networks` in its rescue list. Raises ValueError when the example's list is
    not the one that is known here."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(EXAMPLE, target)
    for path in target.glob("*.yaml"):
        text = path.read_text()
        if RESCUE in text:
            path.write_text(text.replace(RESCUE, f"{RESCUE[:-1]}, {', '.join(networks)}]"))
            return target
    raise ValueError(f"{EXAMPLE} has no {RESCUE!r}: it changed, change lab/vm/policy.py too")


if __name__ == "__main__":
    write_policy(Path(sys.argv[1]), sys.argv[2:])
