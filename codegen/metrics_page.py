"""
Writes the table of docs/reference/metrics.md from relayrpc/observe/metrics.py.

Owns: the form of that part. The rest of the page is written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from codegen.marked import put_between_marks
from relayrpc.observe.metrics import BOUNDS_S, METRICS


__all__ = ["PAGE", "SOURCE", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "metrics.md"
SOURCE: Final = "relayrpc/observe/metrics.py"


def render(page: str) -> str:
    """Return the page with its table brought up to date; `page` is its text as it is."""
    rows = "".join(
        f"| `{name}` | {metric.kind} | {_labels(metric.labels)} | {metric.help} |\n"
        for name, metric in METRICS.items()
    )
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_S)
    table = f"| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"
    buckets = f"\nBuckets of the histograms end at {bounds} seconds, and one takes the rest.\n"
    return put_between_marks(page, source=SOURCE, made=table + buckets)


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels) or "–"
