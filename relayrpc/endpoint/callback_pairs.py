"""
What a program gives as `callbacks`: how they are read, wherever they are given.

Source: docs/reference/callbacks.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from relayrpc.endpoint.callbacks import CallbackServer


__all__ = ["add_callbacks"]


def add_callbacks(callbacks: Any, server: CallbackServer) -> None:
    """
    Add what a channel's `callbacks` are: pairs of what adds a servicer to a server, and that.

    Raises:
        ConfigError: They are something else; nothing is added.
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
    for add_to_server, servicer in pairs:
        add_to_server(servicer, server)
