"""The fault suite for as long as one likes, by hand and as root:

    python -m tests.chaos --minutes 30 [--seed N]     faults and kills, drawn at random
    python -m tests.chaos --every-step [KILL...]      one kill after another at every single step, until none is left
    python -m tests.chaos --list

What must hold is looked at after each one. The first thing that does not ends the run: exit code 1, with the seed, what
happened before, and the logs.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from tests.chaos.chaos import Chaos
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import ChaosFleet, Killed, Step
from tests.chaos.kills import KILLS
from tests.chaos.trials import TRIALS

MOST_STEPS = 60
"""A random kill is at one of the first so many: a push takes about that many."""
LAST_WORDS = 8
Kill = Callable[[Chaos, Step], Killed]


class Run:
    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        self.said: list[str] = []
        self.counts: Counter[str] = Counter()

    def once(self, name: str, act: Callable[[], object]) -> object:
        began = time.monotonic()
        self.said.append(name)
        done = act()
        self.chaos.check()
        self.counts[name] += 1
        self.said[-1] = f"{name}: {done}"
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - began:5.1f} s  {self.said[-1]}", flush=True)
        return done

    def draw(self) -> None:
        random = self.chaos.random
        if random.random() < 0.5:
            kill, step = random.choice(KILLS), Step(random.randint(1, MOST_STEPS))
            self.once(kill.__name__, lambda: kill(self.chaos, step))
        else:
            fault = random.choice((*FAULTS, *TRIALS))
            self.once(fault.__name__, lambda: fault(self.chaos))

    def every_step(self, kill: Kill) -> None:
        at = 0
        while True:
            at += 1
            step = Step(at)
            killed = self.once(kill.__name__, lambda step=step: kill(self.chaos, step))
            assert isinstance(killed, Killed)
            if not killed.killed:
                return


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--every-step", nargs="*", metavar="KILL", choices=[kill.__name__ for kill in KILLS])
    parser.add_argument("--list", action="store_true", help="print what there is and end")
    return parser.parse_args()


def main() -> int:
    asked = options()
    if asked.list:
        print(*(what.__name__ for what in (*KILLS, *FAULTS, *TRIALS)), sep="\n")
        return 0
    print(f"seed {asked.seed}", flush=True)
    with ChaosFleet() as fleet:
        run = Run(Chaos(fleet, Random(asked.seed)))
        try:
            run.chaos.begin()
            if asked.every_step is not None:
                for kill in KILLS:
                    if not asked.every_step or kill.__name__ in asked.every_step:
                        run.every_step(kill)
            else:
                deadline = time.monotonic() + asked.minutes * 60
                while time.monotonic() < deadline:
                    run.draw()
            run.chaos.end()
        except Exception:
            print(fleet.logs(), f"seed {asked.seed}; the last that happened:", *run.said[-LAST_WORDS:], sep="\n")
            raise
    print(f"seed {asked.seed}: {dict(run.counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
