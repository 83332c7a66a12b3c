"""`python -m bench [--quick] [--only NAME] [--out FILE]`.

Exit code 0 when everything was measured, whether the goals hold or not; 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.rows import table, to_json
from bench.runner import MEASURES, run

OUT = Path(__file__).parent / "out" / "bench.json"


def main() -> int:
    names = [m.name for m in MEASURES]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure segctl on this machine, as root.")
    parser.add_argument("--quick", action="store_true", help="a fast look: few samples, figures are rough")
    parser.add_argument("--only", action="append", choices=names, help="one family of figures; may be given again")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the rows go as JSON (default: {OUT})")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("namespaces, cgroups and nftables need root: run it as root")
    chosen = [m for m in MEASURES if options.only is None or m.name in options.only]
    rows = list(run(chosen, options.quick))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(to_json(rows) + "\n")
    print(table(rows))
    for row in rows:
        if row.value is None:
            print(f"{row.name}: {row.how}", file=sys.stderr)
    print(f"rows: {options.out}")
    return 1 if any(row.value is None for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
