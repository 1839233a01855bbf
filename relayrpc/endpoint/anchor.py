"""
What calls belong to that go where a running call is: a session, or a caller that is called back.

Source: link.proto, Open.anchor; docs/adr/0020-anchored-calls.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol


if TYPE_CHECKING:
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["LINE_METHOD", "SESSION_METHOD", "Anchor", "AnchorFault"]

SESSION_METHOD: Final = "$session"
"""Of every service: a call of it is a session with that service's host, for as long as it runs."""
LINE_METHOD: Final = "relayrpc.v1.Callback/Line"
"""Of every caller: a call of it keeps the caller within its host's reach, while it runs."""


class AnchorFault(Exception):
    """What a call ends with, not executed, that cannot be opened or belong to what it should."""

    def __init__(self, status: int, details: str, *, end: pb.End | None = None) -> None:
        """
        Args:
            status: gRPC's number.
            details: Why.
            end: What was said of it, for the calls that waited for it to end with; None: this side
                says so.
        """
        super().__init__(details)
        self.status = status
        self.details = details
        self.end = end


class Anchor(Protocol):
    """What every call of a channel belongs to."""

    @property
    def is_ready(self) -> bool:
        """False while calls have to wait for it."""

    async def ready(self, method: str, wait_for_ready: bool) -> None:
        """
        Wait until calls can be opened.

        Args:
            method: "pkg.Service/Method", of a call that is to be opened.
            wait_for_ready: It waits for a host.

        Raises:
            AnchorFault: None can be.
        """

    def call_for(self, method: str, core: CallCore) -> Call:
        """
        Return the running call that a call is to belong to.

        Args:
            method: "pkg.Service/Method", of the call.
            core: Which is opened next.

        Raises:
            AnchorFault: It may not be opened, or not any more.
        """
