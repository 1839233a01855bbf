"""
Writes the table of docs/reference/logs.md from relayrpc/observe/logs.py.

Owns: the form of that part. The rest of the page is written by hand.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from codegen.marked import put_between_marks
from relayrpc.observe.logs import LOG_EVENTS


__all__ = ["PAGE", "SOURCE", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "logs.md"
SOURCE: Final = "relayrpc/observe/logs.py"


def render(page: str) -> str:
    """Return the page with its table brought up to date; `page` is its text as it is."""
    rows = "".join(
        f"| `{event.message}` | {logging.getLevelName(event.level)} "
        f"| {', '.join(f'`{name}`' for name in event.fields)} | {event.meaning} |\n"
        for event in LOG_EVENTS.values()
    )
    table = f"| message | level | fields | meaning |\n|---|---|---|---|\n{rows}"
    return put_between_marks(page, source=SOURCE, made=table)
