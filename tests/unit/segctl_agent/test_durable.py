"""Files that are the old or the new one, also where someone else may write the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from segctl.errors import StateError
from segctl_agent.durable import write_briefly, write_durably
from segctl_agent.state import StateFolder

AGENT = 65534

WRITERS = [write_durably, write_briefly]


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_in_the_place_of_the_file_aside_leads_nowhere(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    """root runs `release` and `load` in a folder of the agent's user."""
    other = tmp_path / "shadow"
    other.write_bytes(b"secret")
    (tmp_path / ".hold.new").symlink_to(other)
    write(tmp_path / "hold", b"released")
    assert other.read_bytes() == b"secret"
    assert (tmp_path / "hold").read_bytes() == b"released"
    assert not (tmp_path / "hold").is_symlink()


@pytest.mark.parametrize("write", WRITERS)
def test_what_root_writes_belongs_to_the_owner_of_the_folder(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    """Else the agent's user could not read the newest generation at boot, and would put an older one in force."""
    assert os.geteuid() == 0, "only root can give files away: run this test as root"
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, AGENT, AGENT)
    write(state / "generation.0", b"x")
    assert ((state / "generation.0").stat().st_uid, (state / "generation.0").stat().st_gid) == (AGENT, AGENT)


def test_the_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match=r"cannot open .*lock"):
        StateFolder(tmp_path).lock()
    assert not (tmp_path / "elsewhere").exists()
