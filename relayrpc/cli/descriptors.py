"""
File descriptors: every link is one, and most systems allow a process fewer than a hub may need.

Owns: raising the limit of this process. Does not own: how many are needed (hub/capacity.py).
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass


__all__ = ["Descriptors", "raise_descriptors"]


@dataclass(frozen=True, slots=True)
class Descriptors:
    """How many file descriptors this process may have open."""

    before: int
    """When it started."""
    now: int


def raise_descriptors(wanted: int) -> Descriptors | None:
    """
    Have the system allow this process `wanted` descriptors, or as many as it will; never fewer than
    before.

    Returns:
        None on a system that has no such limit.
    """
    try:
        import resource
    except ModuleNotFoundError:
        return None

    def allowed() -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft

    before = allowed()
    if before < wanted:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # macOS refuses more than a bound of the whole system, which cannot be asked for.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return Descriptors(before, allowed())
