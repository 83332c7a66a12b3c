"""Pushes two policies in turns and tells when every host had proved each: `python -m bench.pusher COUNT DIR DIR`.

Runs inside the lab, where the controller can be reached, as the administrator of $SEGCTL_CONFIG. Prints one JSON object
a push: {"total_ms": from the request until it is confirmed, "hosts_ms": the controller's clock from stored to the last
proof, "hosts": how many}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from segctl.cli.client import Controller
from segctl.cli.config import load_config
from segctl.cli.sources import load_sources
from segctl.cli.views import Done, Proof
from segctl.cli.way import Way


def main() -> int:
    count, policies = int(sys.argv[1]), [load_sources([path]) for path in sys.argv[2:4]]
    with Controller(load_config(Path(os.environ["SEGCTL_CONFIG"]))) as controller:
        for number in range(count):
            files = policies[number % 2]
            plan = controller.plan(files)
            started = time.monotonic()
            proofs = []
            for step in controller.push(files, f"bench {number}", plan, Way()):
                if isinstance(step, Proof) and step.state == "proven":
                    proofs.append(step)
                if isinstance(step, Done) and (step.undone or step.refused or step.offline or step.waiting):
                    print(f"push {number} was not proven everywhere: {step}", file=sys.stderr)
                    return 1
            total_ms = (time.monotonic() - started) * 1000
            hosts_ms = max(proof.after_ms for proof in proofs)
            print(json.dumps({"total_ms": total_ms, "hosts_ms": hosts_ms, "hosts": len(proofs)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
