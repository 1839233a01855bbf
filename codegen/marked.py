"""
Writes one part of a page that is otherwise written by hand.

Owns: the two lines around that part. Does not own: what is written there (metrics_page.py, ...).
"""

from __future__ import annotations

from typing import Final


__all__ = ["put_between_marks"]

_END: Final = "<!-- end of what is made -->\n"


def put_between_marks(page: str, *, source: str, made: str) -> str:
    """
    Return a page with its made part written anew.

    Args:
        page: As it is.
        source: The file that the part is made from, as the first mark names it.
        made: The part, whole lines.

    Raises:
        ValueError: A mark is missing.
    """
    begin = f"<!-- made by `make gen` from {source} -->\n"
    before, has_begin, rest = page.partition(begin)
    _, has_end, after = rest.partition(_END)
    if not (has_begin and has_end):
        raise ValueError(f"the page needs the lines {begin!r} and {_END!r}")
    return f"{before}{begin}{made}{_END}{after}"
