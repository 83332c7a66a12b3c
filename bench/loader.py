"""A process that takes one host policy as an agent does, and tells its memory: `python -m bench.loader SMALL LARGE`.

SMALL and LARGE are files that hold HostPolicy messages. Puts SMALL in force, which is the idle agent; then reads LARGE
from its bytes to the kernel's acknowledgement. Prints {"idle": resident bytes before, "peak": the most it ever had in
between, "after": resident bytes, "cpu_ms": of taking LARGE}.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.state import decode_policy

from bench.enforced import new_enforcer
from bench.policies import SERVER, sandbox_facts

_SELF = Path("/proc/self")
_RESET_PEAK = "5"
"""Written to clear_refs it sets the peak of resident memory, VmHWM, to what it is now (proc_pid_clear_refs(5))."""


def main() -> int:
    small, large = (Path(argument) for argument in sys.argv[1:3])
    enforcer = new_enforcer(NetlinkKernel(), sandbox_facts(SERVER))
    enforcer.put(decode_policy(small.read_bytes()))
    gc.collect()
    (_SELF / "clear_refs").write_text(_RESET_PEAK)
    idle = _status("VmRSS")
    started = time.process_time()
    enforcer.put(decode_policy(large.read_bytes()))
    cpu = time.process_time() - started
    print(json.dumps({"idle": idle, "peak": _status("VmHWM"), "after": _status("VmRSS"), "cpu_ms": cpu * 1000}))
    return 0


def _status(field: str) -> int:
    """Bytes."""
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    raise SystemExit(main())
