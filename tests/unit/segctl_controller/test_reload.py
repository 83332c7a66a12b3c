"""What a controller says to SIGHUP of the file it was started from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from segctl.errors import StateError
from segctl_controller.config import CONFIG_FILE, Config, save_config
from segctl_controller.reload import describe_reload

RUNNING = Config("seg-test", "127.0.0.1", ("ctl", "192.0.2.1"))


def test_what_differs_is_named(tmp_path: Path) -> None:
    save_config(tmp_path, RUNNING)
    assert describe_reload(tmp_path, RUNNING) == "controller.json is as it was"
    save_config(tmp_path, replace(RUNNING, port=1, heartbeat_seconds=11))
    assert "another port, heartbeat_seconds" in describe_reload(tmp_path, RUNNING)


def test_a_file_that_would_hinder_the_next_start_is_told(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(StateError, match=CONFIG_FILE):
        describe_reload(tmp_path, RUNNING)
