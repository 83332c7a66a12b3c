"""Names of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from segctl_agent.facts.processes import process_name


def test_a_name_is_whole_where_the_kernel_cuts_it_at_15_bytes(tmp_path: Path) -> None:
    link = tmp_path / "a-name-of-twenty-six-bytes"
    link.symlink_to(sys.executable)
    with subprocess.Popen([link, "-I", "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process_name(process.pid) == link.name
        process.kill()


def test_a_process_that_ended_has_no_name() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert process_name(process.pid) == ""
    assert process_name(os.getpid()) != ""
