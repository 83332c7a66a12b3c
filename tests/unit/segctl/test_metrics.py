"""What Prometheus reads: parsed by its own library, bounded, and as documented."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import segctl_agent.monitor
import segctl_controller.monitor
from prometheus_client.parser import text_string_to_metric_families
from segctl.measure import BUCKETS, Durations, LoopLag, Metric
from segctl.metrics import Metrics

DOCS = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")
DECLARED = {"Agent": segctl_agent.monitor.METRICS, "Controller": segctl_controller.monitor.METRICS}


def test_gauges_counters_labels_and_histograms() -> None:
    took = Durations()
    for seconds in (0.0005, 0.03, 99.0):
        took.add(seconds)
    declared = (
        Metric("x_generation", "gauge", "Help."),
        Metric("x_denials", "counter", "Help.", ("direction", "verdict"), ("in/denied", "out/denied")),
        Metric("x_seconds", "histogram", "Help."),
        Metric("x_absent", "gauge", "Help."),
    )
    values = {"x_generation": 7, "x_denials": {"in/denied": 3, 'hostile"\n/name': 2}, "x_seconds": took}
    text = Metrics(declared, lambda: values).page().body.decode()
    found = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}
    assert found["x_generation",] == 7
    assert found["x_denials_total", "in", "denied"] == 3
    assert found["x_denials_total", "out", "denied"] == 0
    assert found["x_denials_total", "other", "other"] == 2
    assert found["x_seconds_bucket", "0.001"] == 1
    assert found["x_seconds_bucket", "0.05"] == 2
    assert found["x_seconds_bucket", "+Inf"] == found["x_seconds_count",] == 3
    assert found["x_seconds_sum",] == pytest.approx(99.0305)
    assert found["process_resident_memory_bytes",] > 1e6
    assert "hostile" not in text
    assert "x_absent" not in text


def test_buckets_hold_what_is_at_most_their_bound() -> None:
    took = Durations()
    took.add(BUCKETS[3])
    assert took.counts[3] == 1


@pytest.mark.parametrize("program", DECLARED)
def test_every_metric_is_documented_and_nothing_else(program: str) -> None:
    section = re.search(rf"^### {program}\n(.*?)(?=^##)", DOCS, re.DOTALL | re.MULTILINE)
    assert section
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\| (.*) \|$", section[1], re.MULTILINE)
    shown = [(name, kind, labels.strip(), text) for name, kind, labels, text in rows]
    assert shown == [(m.exposed, m.kind, ", ".join(m.labels), m.help) for m in DECLARED[program]]


@pytest.mark.parametrize("program", DECLARED)
def test_names_follow_prometheus_and_labels_are_bounded(program: str) -> None:
    for metric in DECLARED[program]:
        assert re.fullmatch(rf"segctl_{program.lower()}_[a-z_]+", metric.name)
        assert metric.kind in ("gauge", "counter", "histogram")
        assert not metric.name.endswith("_total")
        assert bool(metric.labels) == bool(metric.values)
        assert len(metric.values) <= 20
        assert all(v.count("/") == len(metric.labels) - 1 for v in metric.values)


def test_an_agent_loads_the_library_only_when_asked() -> None:
    look = "import segctl_agent.loop, sys; print([m for m in sys.modules if m.startswith('prometheus')])"
    assert subprocess.check_output([sys.executable, "-c", look], text=True) == "[]\n"


async def test_a_loop_that_is_held_up_shows() -> None:
    lag = LoopLag()
    task = asyncio.create_task(lag.run(0.01))
    await asyncio.sleep(0.05)
    assert lag.worst < 0.2
    time.sleep(0.3)  # noqa: ASYNC251 - what must not happen
    await asyncio.sleep(0.02)
    assert 0.2 < lag.worst < 2
    late = sum(count for bound, count in zip(BUCKETS, lag.delays.counts, strict=False) if bound > 0.1)
    assert late >= 10, "each tick that was missed counts"
    task.cancel()
