"""
Python text as `ruff format` leaves it, whatever it is told of line lengths from 88 on. Pure.

Owns: breaking what is too long, docstrings of any content. Does not own: what is said
(rendering.py).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final


__all__ = ["COLUMNS", "broken", "docstring", "fitting", "narrowed"]

COLUMNS: Final = 88
_STEP: Final = 4


def fitting(head: str, parts: Sequence[str], tail: str, *, indent: int) -> list[str]:
    """
    Write what stands in brackets: on one line where it fits, else a part a line.

    Args:
        head: With the opening bracket.
        parts: What commas part.
        tail: With the closing bracket.
    """
    line = f"{' ' * indent}{head}{', '.join(parts)}{tail}"
    return [line] if len(line) <= COLUMNS or not parts else broken(head, parts, tail, indent=indent)


def broken(head: str, parts: Sequence[str], tail: str, *, indent: int) -> list[str]:
    """Write what stands in brackets, a part a line."""
    # The last comma keeps a formatter from joining the lines.
    inner = [line for part in parts for line in narrowed(part, ",", indent=indent + _STEP)]
    margin = " " * indent
    return [f"{margin}{head}", *inner, f"{margin}{tail}"]


def narrowed(text: str, tail: str, *, indent: int) -> list[str]:
    """
    Write a line; one that is too long is broken before its last alternative, and in its square
    brackets.

    Args:
        tail: What stands behind the text, on the same line.
    """
    margin = " " * indent
    first, bar, last = text.rpartition(" | ")
    generic, bracket, rest = text.partition("[")
    if len(margin + text + tail) <= COLUMNS or not (bar or bracket):
        return [f"{margin}{text}{tail}"]
    if bar and "]" not in last:
        return [*narrowed(first, "", indent=indent), f"{margin}| {last}{tail}"]
    types, _, rest = rest.rpartition("]")
    parts = types.split(", ")
    # Behind one type a comma would make a tuple of it.
    comma = "," if len(parts) > 1 else ""
    inner = [f"{margin}{' ' * _STEP}{part}{comma}" for part in parts]
    return [f"{margin}{generic}[", *inner, f"{margin}]{rest}{tail}"]


def docstring(summary: str, comment: str = "", *, indent: int) -> list[str]:
    """
    Write a docstring.

    Args:
        summary: A sentence; stands alone where there is no comment.
        comment: Lines without margin, of any content; they follow the summary.
    """
    text = f"{summary}\n\n{comment}" if comment else summary
    lines = list(_wrapped(text, COLUMNS - indent))
    prefix, quotes = "r" if "\\" in text else "", '"""'
    if quotes in text:
        quotes = "'''"
    if quotes in text:
        prefix, quotes = "", '"""'
        lines = [line.replace("\\", r"\\").replace(quotes, r"\"\"\"") for line in lines]
    margin = " " * indent
    if len(lines) == 1:
        # One that does not fit with its quotes too: no linter wants one line to be three.
        return [f"{margin}{prefix}{quotes}{lines[0]}{quotes}"]
    inner = [f"{margin}{line}".rstrip() for line in lines]
    return [f"{margin}{prefix}{quotes}", *inner, f"{margin}{quotes}"]


def _wrapped(text: str, columns: int) -> Iterator[str]:
    for line in text.splitlines():
        clean = "".join(filter(str.isprintable, line)).rstrip()
        margin = clean[: len(clean) - len(clean.lstrip())]
        yield from textwrap.wrap(
            clean,
            columns,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
