"""
What a program gives as `callbacks`: how they are read, wherever they are given.

Source: docs/reference/callbacks.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["read_callbacks"]


def read_callbacks(callbacks: Any) -> list[tuple[Callable[[Any, Any], None], Any]]:
    """
    Return a channel's `callbacks`: what adds a servicer to a server, and the servicer, of each.

    Raises:
        ConfigError: They are something else.
    """
    try:
        pairs = [(add_to_server, servicer) for add_to_server, servicer in callbacks]
    except (TypeError, ValueError):
        pairs = None
    if pairs is None or not all(callable(add_to_server) for add_to_server, _ in pairs):
        raise ConfigError(
            f"callbacks is {callbacks!r}, and must be a list of pairs, "
            "[(add_OrderEventsServicer_to_server, servicer)]"
        )
    return pairs
