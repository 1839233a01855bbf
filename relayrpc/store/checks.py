"""
What every store says of its arguments, in the same words. Pure.

Owns: the form of keys and names, sizes, ranges, what is said of positions that are not there and of
a key that somebody else has changed. Does not own: how much there is already (the stores).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relayrpc.errors import PositionError, RevisionError, StoreFullError, UsageError
from relayrpc.limits import MIB


if TYPE_CHECKING:
    from relayrpc.limits import Limits
    from relayrpc.store.base import Retention


__all__ = [
    "PAGE_BYTES",
    "PAGE_COUNT",
    "Bounds",
    "bounds_of",
    "check_expected",
    "check_lease",
    "check_name",
    "check_prefix",
    "check_reached",
    "check_record",
    "check_remembered",
    "check_retention",
    "check_room",
    "check_value",
]

PAGE_BYTES: Final = 1 * MIB
"""A page for a watcher or reader ends with the value that reaches this,"""
PAGE_COUNT: Final = 1024
"""... or is the last of so many."""

_SEGMENTS: Final = re.compile(r"[A-Za-z0-9._~$-]+(?:/[A-Za-z0-9._~$-]+)*")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a log is kept."""

    records_max: int
    bytes_max: int
    age_s_max: float


def bounds_of(retention: Retention, limits: Limits) -> Bounds:
    """Put the limits where a retention says nothing, or more than they allow by now."""
    return Bounds(
        min(retention.records_max or limits.store_log_records_max, limits.store_log_records_max),
        min(retention.bytes_max or limits.store_log_bytes_max, limits.store_log_bytes_max),
        min(retention.age_s_max or limits.store_log_age_s_max, limits.store_log_age_s_max),
    )


def check_name(name: str, limits: Limits) -> None:
    """
    Raises:
        UsageError: It is no key, and no name of a log.
    """
    if not _SEGMENTS.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} is no key: segments of letters, digits and ._~$- joined by /"
        )
    if len(name) > limits.store_key_bytes_max:
        most = limits.store_key_bytes_max
        raise UsageError(f"a key of {len(name)} bytes, more than {most}", limit_bytes=most)


def check_prefix(prefix: str, limits: Limits) -> None:
    """
    Raises:
        UsageError: It is neither empty nor a path with "/" behind it.
    """
    if prefix:
        if not prefix.endswith("/"):
            raise UsageError(f"{prefix[:80]!r} is no prefix: it must end with /")
        check_name(prefix[:-1], limits)


def check_value(value: bytes, limits: Limits) -> None:
    """
    Raises:
        UsageError: It is too large.
    """
    most = limits.store_value_bytes_max
    if len(value) > most:
        raise UsageError(f"a value of {len(value)} bytes, more than {most}", limit_bytes=most)


def check_record(data: bytes, bounds: Bounds) -> None:
    """
    Raises:
        UsageError: Its log keeps less than it alone.
    """
    if len(data) > bounds.bytes_max:
        text = f"a record of {len(data)} bytes, and its log keeps {bounds.bytes_max}"
        raise UsageError(text, limit_bytes=bounds.bytes_max)


def check_lease(lease_s: float, limits: Limits) -> None:
    """
    Raises:
        UsageError: No lease may live that long, or that short.
    """
    low, high = limits.store_lease_s_min, limits.store_lease_s_max
    if not low <= lease_s <= high:
        raise UsageError(f"a lease of {lease_s:g} s, and must be from {low:g} to {high:g} s")


def check_retention(retention: Retention, limits: Limits) -> None:
    """
    Raises:
        UsageError: It keeps nothing, or more than may be.
    """
    for name, value, most in (
        ("records_max", retention.records_max, limits.store_log_records_max),
        ("bytes_max", retention.bytes_max, limits.store_log_bytes_max),
        ("age_s_max", retention.age_s_max, limits.store_log_age_s_max),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{name} is {value}, and must be from 1 to {most:g}")


def check_expected(key: str, expected: int | None, actual: int) -> None:
    """
    Args:
        key: The key.
        expected: None: anything.
        actual: The key's revision; 0: it holds nothing.

    Raises:
        RevisionError: They differ.
    """
    if expected is not None and expected != actual:
        text = f"{key!r} is at revision {actual}, not {expected}"
        raise RevisionError(text, key=key, expected=expected, actual=actual)


def check_reached(what: str, after: int, last: int) -> None:
    """
    Args:
        what: The store, or a log.
        after: Where somebody was.
        last: How far it has come.

    Raises:
        PositionError: It has not come that far.
    """
    if after > last:
        text = f"{what} has come to {last}, not to {after}: it is another one, or an older copy"
        raise PositionError(text, after=after, last=last)


def check_remembered(forgotten: int, after: int) -> None:
    """
    Args:
        forgotten: The newest deletion that is no longer remembered.
        after: Since when deletions are asked for.

    Raises:
        PositionError: There were some that nobody can tell.
    """
    if forgotten > after:
        text = f"what was deleted between revisions {after} and {forgotten} is forgotten"
        raise PositionError(text, after=after, forgotten=forgotten)


def check_room(what: str, count: int, most: int) -> None:
    """
    Raises:
        StoreFullError: There would be too many.
    """
    if count > most:
        raise StoreFullError(f"the store is full: no more than {most} {what}", limit=most)
