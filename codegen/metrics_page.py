"""
Writes the table of docs/reference/metrics.md from relayrpc/observe/metrics.py.

Owns: the form of that part, between its two marks. The rest of the page is written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from relayrpc.observe.metrics import BOUNDS_S, METRICS


__all__ = ["PAGE", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "metrics.md"

_BEGIN: Final = "<!-- made by `make gen` from relayrpc/observe/metrics.py -->\n"
_END: Final = "<!-- end of what is made -->\n"


def render(text: str) -> str:
    """Return the page with its table brought up to date; `text` is the page as it is."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = "".join(
        f"| `{name}` | {metric.kind} | {_labels(metric.labels)} | {metric.help} |\n"
        for name, metric in METRICS.items()
    )
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_S)
    table = f"| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"
    buckets = f"\nBuckets of the histograms end at {bounds} seconds, and one takes the rest.\n"
    return f"{before}{_BEGIN}{table}{buckets}{_END}{after}"


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels) or "–"
