"""`python -m bench.suggest`: figures of suggestions; rows in bench/out/suggest.json, told in docs/suggestions.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, table, to_json
from bench.suggest.figures import quality
from bench.suggest.ten_million import time_of_ten_million

OUT = Path(__file__).parent.parent / "out" / "suggest.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.suggest", description="How good suggestions are.")
    parser.add_argument("--quick", action="store_true", help="few worlds, a tenth of the flows; figures are rough")
    parser.add_argument("--only", choices=("quality", "time"), help="one half of it")
    parser.add_argument("--out", type=Path, default=OUT, help="where the rows go (default: %(default)s)")
    options = parser.parse_args()
    found = []
    for row in _rows(options.quick, options.only):
        found.append(row)
        print(table([row]).splitlines()[1], file=sys.stderr, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(to_json(found) + "\n")
    print(table(found))
    print(f"rows: {options.out}")
    return 0


def _rows(quick: bool, only: str | None) -> Iterator[Row]:
    if only != "time":
        yield from quality(quick)
    if only != "quality":
        yield time_of_ten_million(quick)


if __name__ == "__main__":
    raise SystemExit(main())
