"""Metrics for Prometheus, read when somebody asks. Counts and times only, never a name of a rule, a host, a workload or
an address: everybody on the machine can read a port of the loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from segctl.measure import BUCKETS, Durations, Metric, Value
from segctl.statuspage import Page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/"""
OTHER = "other"
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Metrics:
    """The page /metrics, with those of the process. `read` gives values by name; what it leaves out is not shown."""

    def __init__(self, declared: tuple[Metric, ...], read: Callable[[], Mapping[str, Value]]) -> None:
        self._declared = {m.name: m for m in declared}
        self._read = read
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def page(self) -> Page:
        return Page(generate_latest(self._registry), kind=CONTENT_TYPE)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing, so that the registry does not read the values to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Family]:
        for name, value in self._read().items():
            yield _family(self._declared[name], value)


def _family(metric: Metric, value: Value) -> Family:
    if isinstance(value, Durations):
        bounds = [*(str(b) for b in BUCKETS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
        return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=value.total)
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    if not isinstance(value, Mapping):
        return make(metric.name, metric.help, value=value)
    family = make(metric.name, metric.help, labels=metric.labels)
    for label, number in _bounded(metric, value).items():
        family.add_metric(label.split("/"), number)
    return family


def _bounded(metric: Metric, found: Mapping[str, float]) -> dict[str, float]:
    out = dict.fromkeys(metric.values, 0.0)
    for label, number in found.items():
        key = label if label in metric.values else "/".join([OTHER] * len(metric.labels))
        out[key] = out.get(key, 0.0) + number
    return out
