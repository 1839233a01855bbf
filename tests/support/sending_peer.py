"""A peer with a stream of messages to send, as far as the credit goes that an inbox gives it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from relayrpc.endpoint.inbox import Assembly, Inbox
from relayrpc.limits import Limits
from relayrpc.link.messages import encode_message


__all__ = ["SendingPeer"]


class SendingPeer:
    """Sends into an inbox, and is the link on which that grants."""

    def __init__(self, messages: list[bytes], *, credit_bytes: int = 0) -> None:
        self.stream = b"".join(map(encode_message, messages))
        self.sent_bytes = 0
        self.credit_bytes = credit_bytes

    def open_inbox(self, limits: Limits, *, assembly: Assembly | None = None) -> Inbox:
        """Make the inbox that this peer sends to, and have it grant its first window."""
        inbox = Inbox(
            cast("Any", SimpleNamespace(link=self)),
            credit_bytes=self.credit_bytes,
            limits=limits,
            assembly=assembly or Assembly(limits),
            clock=lambda: 0.0,
        )
        inbox.start()
        return inbox

    def grant(self, call: object, credit_bytes: int) -> None:
        self.credit_bytes += credit_bytes

    def flush_soon(self) -> None:
        pass

    def send(self, inbox: Inbox, size_max: int) -> int:
        """Send at most `size_max` bytes; returns how many."""
        size = min(size_max, self.credit_bytes, len(self.stream) - self.sent_bytes)
        if size:
            piece = self.stream[self.sent_bytes : self.sent_bytes + size]
            self.credit_bytes -= size
            self.sent_bytes += size
            inbox.receive(piece)
        return size
