"""
Calls that nobody hears of, or of their end alone.

Owns: what is done with what arrives for them: nothing. Source: link/call.py, CallApp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["REFUSED_CALL", "SilentCall"]


class SilentCall:
    """CallApp of a call without messages, or whose messages are not read; to be derived from."""

    def begin_received(self, begin: pb.Begin) -> None:
        """Initial metadata, which says nothing here."""

    def data_received(self, data: bytes) -> None:
        """Drop it."""

    def half_close_received(self) -> None:
        """Nothing waits for it."""

    def send_ready(self) -> None:
        """Nobody writes."""

    def call_ended(self, end: pb.End) -> None:
        """Nobody is told."""


REFUSED_CALL: Final = SilentCall()
"""The CallApp of every call that was refused, or answered, as it came."""
