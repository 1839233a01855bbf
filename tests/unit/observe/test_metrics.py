"""
The text that Prometheus reads. Goal: its parser gets back what was written. Method: the parser of
prometheus_client.
"""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from relayrpc.observe.metrics import BOUNDS_S, METRICS, OTHER, CappedSeries, Histogram, Page


def samples(page: Page) -> dict[tuple[str, str], float]:
    """Values by name and the labels' values, joined."""
    return {
        (sample.name, "|".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.encode().decode())
        for sample in family.samples
    }


def test_label_values_may_hold_anything() -> None:
    page = Page()
    odd = 'a"b\\c\nd{e}=,é'
    page.add("relayrpc_hosts", {(odd,): 3})
    assert samples(page) == {("relayrpc_hosts", odd): 3}


def test_histogram_counts_each_value_at_the_bucket_that_holds_it_and_above() -> None:
    histogram = Histogram()
    for value_s in (0.0, BOUNDS_S[0], BOUNDS_S[1], 99.0):
        histogram.observe(value_s)
    page = Page()
    page.add_histograms("relayrpc_queue_seconds", [((), histogram)])
    found = samples(page)
    buckets = [found["relayrpc_queue_seconds_bucket", str(bound)] for bound in BOUNDS_S]
    assert buckets == [2, *[3] * (len(BOUNDS_S) - 1)]
    assert found["relayrpc_queue_seconds_bucket", "+Inf"] == 4
    assert found["relayrpc_queue_seconds_count", ""] == histogram.count == 4
    assert found["relayrpc_queue_seconds_sum", ""] == sum((BOUNDS_S[0], BOUNDS_S[1], 99.0))


def test_gauge_by_address_folds_what_is_beyond_its_bound() -> None:
    gauge = CappedSeries(2)
    for address in ("a", "b", "c", "a", "d"):
        gauge.add(address)
    assert gauge.values == {("a",): 2, ("b",): 1, (OTHER,): 2}
    assert gauge.folded_count == 2


def test_table_keeps_the_conventions_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name
        assert name.startswith("relayrpc_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert name.endswith("_seconds") == (metric.kind == "histogram")
        assert metric.help.endswith(".")
