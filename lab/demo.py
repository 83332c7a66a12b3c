"""`make demo`: a fleet is segmented before your eyes. Every sentence is checked with connections of real processes.

Exit code 0: everything was so, and nothing is left behind. 1: something was not so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable

from lab import chapters, chapters_change, chapters_suggest, chapters_watch
from lab.fleet import Fleet
from lab.host import REPOSITORY
from lab.instance import LabError
from lab.netns import Lab
from lab.secondfleet import SecondFleet
from lab.signals import leave_orderly
from lab.story import Demo, Story
from lab.wait import DeadlineError

CHAPTERS: tuple[Callable[[Demo], None], ...] = (
    chapters.the_fleet,
    chapters.before,
    chapters.plan_and_push,
    chapters.permitted,
    chapters.wrong_process,
    chapters.wrong_listener,
    chapters.boundary,
    chapters.denials,
    chapters.explained,
    chapters.restart,
    chapters_change.allow_it,
    chapters_change.take_it_back,
    chapters_change.roll_back,
    chapters_watch.who_talks,
    chapters_watch.the_map,
    chapters_watch.which_rules_are_used,
    chapters_watch.tampering,
    chapters_change.time_box,
    chapters_watch.account,
)


def play(fleet: Fleet, pause: float) -> list[str]:
    """Tell the whole story on a raised fleet, and then that of a second one, which is made meanwhile. Returns what was
    not so."""
    policy = fleet.lab.instance.directory / "policy"
    shutil.copytree(REPOSITORY / "examples" / "shop", policy)
    demo = Demo(fleet, Story(fleet, pause), policy)
    with SecondFleet(fleet.control, fleet.topology, fleet.lab.instance.directory / "second") as second:
        for chapter in CHAPTERS:
            chapter(demo)
        chapters_suggest.from_what_was_seen(demo, second)
    return demo.story.failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="between the steps, to read along")
    options = parser.parse_args()
    leave_orderly()
    began = time.monotonic()
    print("segctl demo: seven hosts in namespaces of this machine; nothing outside them is touched.")
    lab = Lab()
    fleet = Fleet(lab)
    try:
        with fleet:
            failures = play(fleet, options.pause)
            if failures:
                print(f"\nThe daemons' logs:\n{fleet.logs()}", file=sys.stderr)
    except (LabError, DeadlineError) as error:
        failures = [str(error)]
    remains = lab.instance.remains()
    failures += [f"left behind: {what}" for what in remains]
    if not remains:
        print("\nThe lab is down: no process, namespace, cgroup, mount or file of it is left.")
    for failure in failures:
        print(f"✘ {failure}", file=sys.stderr)
    if failures:
        print(f"demo: {len(failures)} of the checks failed after {time.monotonic() - began:.0f} s", file=sys.stderr)
        return 1
    print(f"demo: everything was as it should be, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
