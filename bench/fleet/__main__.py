"""`python -m bench.fleet prepare | run | figures`: docs/operations.md, "Sizing a controller", and docs/figures.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.fleet import figures
from bench.rows import table, to_json
from bench.runner import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _figures(commands.add_parser("figures", help="measure on this machine; write rows to bench/out/fleet.json"))
    options = parser.parse_args()
    code: int = options.command(options)
    return code


def _figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="small fleets and few rounds; figures are rough")
    parser.add_argument("--only", action="append", choices=figures.names(), help="may be given again")
    parser.add_argument("--out", type=Path, default=figures.OUT, help="where the rows go (default: %(default)s)")
    parser.set_defaults(command=_measure)


def _measure(options: argparse.Namespace) -> int:
    """1 when something could not be measured, whether the goals hold or not."""
    rows = list(run(figures.measures(options.only), options.quick))
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
