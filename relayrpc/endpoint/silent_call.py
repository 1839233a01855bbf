"""
Calls that nobody hears of, or of their end alone.

Owns: what is done with what arrives for them: nothing. Source: link/call.py, CallApp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayrpc.link.call import STATUS_UNIMPLEMENTED


if TYPE_CHECKING:
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["REFUSED_CALL", "TAKES_NO_CALLBACKS", "SilentCall", "refuse_callback"]


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


TAKES_NO_CALLBACKS: Final = "this caller takes no callbacks"
"""How the details of a refusal begin that holds for every callback to a caller."""


def refuse_callback(call: Call, why: str) -> None:
    """Refuse a call that a host makes to a caller who serves nothing."""
    call.app = REFUSED_CALL
    call.link.end_call(
        call,
        status=STATUS_UNIMPLEMENTED,
        details=f"{TAKES_NO_CALLBACKS}: {why}",
        not_executed=True,
    )
