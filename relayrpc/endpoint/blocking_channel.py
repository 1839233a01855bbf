"""
What every blocking channel is: a grpc.Channel whose calls go over an async channel, on the loop
behind a portal.

Owns: making callables, handing over calls that start. Does not own: who may call, the life of a
channel (sync_channel.py, sync_session.py), calls (sync_call.py).
Source: grpc.Channel; docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from relayrpc.endpoint.sync_core import SyncReplyCore, SyncStreamCore
from relayrpc.endpoint.sync_multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from relayrpc.endpoint.turn_calls import require_wait
from relayrpc.errors import UsageError


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel as AsyncChannel
    from relayrpc.endpoint.metadata import InvocationMetadata, MetadataInput
    from relayrpc.endpoint.portal import Portal
    from relayrpc.endpoint.sync_core import BlockingCore


__all__ = ["CLOSED", "BlockingChannel"]

CLOSED: Final = "Cannot invoke RPC on closed channel!"


class BlockingChannel(grpc.Channel):
    """
    Calls from any thread.

    Attributes:
        core: The async channel; used on the portal's loop alone.
        portal: Where that runs.
        is_traced: The process makes spans: a call's is below the one that is current for its
            caller.
    """

    core: AsyncChannel
    reply_core: type[SyncReplyCore] = SyncReplyCore
    """Of the calls with one response."""
    stream_core: type[SyncStreamCore] = SyncStreamCore
    """Of those with more."""

    def __init__(self, core: AsyncChannel, portal: Portal, *, is_traced: bool = False) -> None:
        self.core = core
        self.portal = portal
        self.is_traced = is_traced

    # --- what generated stubs use ---

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        """Make the callable of a method, "/pkg.Service/Method"."""
        return UnaryUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        """Make the callable of a method with a response stream."""
        return UnaryStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        """Make the callable of a method with a request stream."""
        return StreamUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        """Make the callable of a method with streams both ways."""
        return StreamStreamMultiCallable(self, method, request_serializer, response_deserializer)

    # --- starting calls ---

    def require_wait(
        self,
        method: str,
        metadata: MetadataInput | InvocationMetadata,
        request: bytes | None = None,
    ) -> None:
        """As turn_calls'."""
        require_wait(self.core.find_turn(), self.core.opener, method, metadata, request)

    def require_open(self) -> None:
        """
        See that calls may start.

        Raises:
            ValueError: The channel is closed.
            UsageError: This is the loop's thread.
        """
        raise NotImplementedError

    def start_call(
        self, core: BlockingCore, open_call: Callable[..., None], *arguments: Any
    ) -> None:
        """Have `open_call(core, *arguments)` open a call soon, on the loop's thread."""
        handover = self.portal.handover
        if handover.backlog_count > self.core.limits.calls_open_max:
            # Whoever starts calls faster than they can be opened waits here.
            handover.call(_nothing)
        if self.is_traced:
            run = contextvars.copy_context().run
            handover.submit(run, _open, core, open_call, arguments)
        else:
            handover.submit(_open, core, open_call, arguments)


def _open(
    core: BlockingCore, open_call: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Open a call; what stands in the way of that is for the thread that waits for it."""
    try:
        open_call(core, *arguments)
    except grpc.aio.UsageError as exc:
        is_closed = core.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        # Closed since the program called.
        core.refuse(ValueError(CLOSED) if is_closed else UsageError(str(exc)))
    except Exception as exc:
        core.refuse(exc)


def _nothing() -> None:
    """Be waited for."""
