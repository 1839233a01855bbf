"""
The sending side of a call with a request stream: `write()` and `done_writing()`, or a request
iterator.

A writer waits only while more than Limits.send_queue_bytes_high is unsent; credit and turns are the
link's business.
Source: the behaviour of grpc.aio's stream-request calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from grpc.aio import UsageError

from relayrpc.link.call import STATUS_INTERNAL, STATUS_RESOURCE_EXHAUSTED
from relayrpc.link.messages import MessageTooLargeError, encode_message


if TYPE_CHECKING:
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.link.call import Call


__all__ = ["MIXED_STYLES", "RequestWriter"]

MIXED_STYLES: Final = "The iterator and read/write APIs may not be mixed on a single RPC."
_ALREADY_FINISHED: Final = "RPC already finished."
_HALF_CLOSED: Final = 'RPC is half closed after calling "done_writing".'
_LOGGER: Final = logging.getLogger("relayrpc")


class RequestWriter:
    """Sends the requests of one call."""

    __slots__ = (
        "_bytes_max",
        "_core",
        "_high_bytes",
        "_serializer",
        "_task",
        "_waiters",
        "is_half_closed",
    )

    def __init__(self, core: CallCore, serializer: Callable[[Any], bytes] | None) -> None:
        self._core = core
        self._serializer = serializer
        # Of the method, known when the call is open.
        self._bytes_max: int | None = None
        self._high_bytes = core.channel.limits.send_queue_bytes_high
        self._waiters: list[asyncio.Future[None]] = []
        # Consumes the request iterator; None where the program writes.
        self._task: asyncio.Task[None] | None = None
        self.is_half_closed = False

    def consume(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        """Send everything an iterator gives, then half close."""
        self._task = self._core.channel.loop.create_task(self._consume(requests))

    def require_writing(self) -> None:
        """Raise UsageError where the requests come from an iterator."""
        if self._task is not None:
            raise UsageError(MIXED_STYLES)

    async def write(self, request: Any) -> None:
        """
        Send one message; waits while too much is unsent.

        Raises:
            asyncio.InvalidStateError: The call is over, or done_writing() was called.
            RpcError: The call ended while this waited, and not with OK; or it ends now, as the
                request cannot be serialized or is too large.
        """
        core = self._core
        call = core.call
        if call is None:
            call = await self._opened()
        if self.is_half_closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        if self._bytes_max is None:
            self._bytes_max = core.channel.opener.request_bytes_max(call.method)
        core.send_bytes(self._encode(request, self._bytes_max))
        if call.unsent_bytes > self._high_bytes:
            await self._wait()

    def half_close(self) -> None:
        """Say that no more requests follow. Idempotent; nothing happens after the end."""
        core = self._core
        if core.end is not None or self.is_half_closed:
            return
        self.is_half_closed = True
        core.half_close()

    def opened(self) -> None:
        """Note that the call is open, which was started before: it waited for its credentials."""
        if self.is_half_closed:
            self.is_half_closed = False
            self.half_close()

    def wake(self) -> None:
        """Let those who wait look again: there is room, or the call is over."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def stop(self) -> None:
        """Note that the call is over."""
        self.wake()
        if self._task is not None:
            self._task.cancel()

    async def _opened(self) -> Call:
        """Wait until the call is open, or open again, and raise what tells of one that is over."""
        core = self._core
        if core.end is not None:
            raise asyncio.InvalidStateError(_ALREADY_FINISHED)
        while core.call is None:
            try:
                await core.watch()
            except asyncio.CancelledError:
                core.cancel_here()
                raise
            if core.end is not None:
                core.raise_for_end()
                raise asyncio.InvalidStateError(_ALREADY_FINISHED)
        return core.call

    def _encode(self, request: Any, bytes_max: int) -> bytes:
        """Serialize a request; one that cannot be sent ends the call."""
        core = self._core
        try:
            data = request if self._serializer is None else self._serializer(request)
        except Exception:
            _LOGGER.exception("request serializer failed")
            core.fail(STATUS_INTERNAL, "Exception serializing request!")
            raise core.make_error() from None
        try:
            return encode_message(data, bytes_max)
        except MessageTooLargeError as exc:
            core.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))
            raise core.make_error() from None

    async def _wait(self) -> None:
        core = self._core
        waiter: asyncio.Future[None] = core.channel.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            core.cancel_here()
            raise
        if core.end is not None:
            core.raise_for_end()

    async def _consume(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self.write(request)
            else:
                for request in requests:
                    await self.write(request)
            self.half_close()
        except asyncio.CancelledError:
            self._core.cancel_here()
            raise
        except Exception:
            # As in grpc.aio: the program's iterator failed, or the call ended while it was read.
            if self._core.end is None:
                _LOGGER.debug("request iterator failed; the call is cancelled", exc_info=True)
                self._core.cancel_here()
