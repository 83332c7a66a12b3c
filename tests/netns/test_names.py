"""The agent dials the addresses that it opens in the kernel, and no others."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernel

HOSTS = "127.0.0.1 localhost\n127.0.0.9 ctl.example.net ctl\nfd77::10 ctl\n"
DIAL = """
import sys
if sys.argv[1] == "agent":
    import segctl_agent
import grpc
try:
    grpc.insecure_channel("ctl.example.net:7443").unary_unary("/a/b")(b"", timeout=5)
except grpc.RpcError as error:
    print(error.details())
"""


def dialled(tmp_path, who):
    """What gRPC says of its last attempt, on a machine with these names."""
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    script = 'mount --bind "$1" /etc/hosts && exec "$2" -c "$3" "$4"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(hosts), sys.executable, DIAL, who]
    return subprocess.run(command, text=True, capture_output=True, check=True, timeout=30).stdout


def test_names_mean_to_grpc_what_they_mean_to_the_system(tmp_path):
    assert "127.0.0.9" in dialled(tmp_path, "agent")
    assert "fd77" in dialled(tmp_path, "anybody else")  # else this is no test
