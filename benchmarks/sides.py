"""
The compared systems by name, in the order they are shown.

Imports each only when it is asked for: a child needs its own side's libraries only, and the
benchmark runs what it can when one is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from benchmarks.side import SideName


if TYPE_CHECKING:
    from benchmarks.side import Side


__all__ = ["SIDE_NAMES", "side"]

SIDE_NAMES: Final[tuple[SideName, ...]] = get_args(SideName)


def side(name: SideName) -> Side:
    """The side of that name."""
    if name == "direct":
        from benchmarks.direct import Direct

        return Direct()
    if name == "nats":
        from benchmarks.nats_side import NATS

        return NATS()
    if name == "core":
        from benchmarks.routing import Core

        return Core()
    if name == "native":
        from benchmarks.native_side import Native

        return Native()
    from benchmarks.relay_side import Relay

    return Relay(name)
