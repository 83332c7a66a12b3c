"""`python -m tests.fuzz NAME [libFuzzer options]`: atheris on one decoder, by hand (`pip install atheris`).

    python -m tests.fuzz nft-elements -max_total_time=120

Without a name it prints the names. A finding is written to `crash-*`; `python -m tests.fuzz NAME crash-...` repeats it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

LARGEST = 8192


def main() -> int:
    try:
        import atheris
    except ModuleNotFoundError:
        print("atheris is not installed: .venv/bin/pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["segctl", "segctl_agent", "segctl_controller"]):
        from tests.fuzz import access, kernel, network
    targets = {target.name: target for target in (*kernel.TARGETS, *network.TARGETS, *access.TARGETS)}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        print("name one of:", *targets, file=sys.stderr)
        return 2
    target = targets[sys.argv[1]]
    options = [f"-max_len={LARGEST}", *sys.argv[2:]]
    with tempfile.TemporaryDirectory(prefix="segctl-fuzz-") as corpus:
        for number, sample in enumerate(target.samples):
            Path(corpus, str(number)).write_bytes(sample)
        if not any(not option.startswith("-") for option in sys.argv[2:]):
            options.append(corpus)
        atheris.Setup([sys.argv[0], *options], lambda data: bool(target.check(data)) and None)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
