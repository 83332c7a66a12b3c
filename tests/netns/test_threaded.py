"""A socket's process is found in a threaded cgroup, too, which is what crun makes below a cgroup with processes."""

from __future__ import annotations

import os
import socket

import pytest
from segctl_agent.facts.processes import Holder, find_holder

from tests.netns.spaces import CGROUPS, in_namespaces

pytestmark = pytest.mark.kernel


def test_the_holder_of_a_socket_in_a_threaded_cgroup_is_found() -> None:
    def body() -> None:
        threaded = CGROUPS / "pod" / "box"
        threaded.mkdir(parents=True)
        (threaded / "cgroup.type").write_text("threaded")
        (threaded.parent / "cgroup.procs").write_text("0")
        (threaded / "cgroup.procs").write_text("0")
        with pytest.raises(OSError, match="not supported"):
            (threaded / "cgroup.procs").read_text()
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert find_holder(os.fstat(server.fileno()).st_ino, threaded) == Holder(os.getpid())

    in_namespaces(body)
