"""
Client interceptors, run by grpc.aio's own machinery over this package's calls.

grpc's intercepted calls run the chain and, at its end, start a call on grpc's channel; only that
last step is replaced.
Source: grpc/aio/_interceptor.py of the grpcio versions that pyproject.toml allows;
tests/integration/test_interceptors.py notices a change there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import _interceptor


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel


__all__ = [
    "InterceptedStreamStreamCall",
    "InterceptedStreamUnaryCall",
    "InterceptedUnaryStreamCall",
    "InterceptedUnaryUnaryCall",
]


def _cancellable(name: str) -> Callable[..., Awaitable[Any]]:
    """
    Make a method of grpc's that whoever awaits it can be cancelled in.

    While interceptors run, grpc's own takes a cancellation of the task that asks for one of the
    call, and goes on with an answer.
    """

    async def method(self: Any, *arguments: Any) -> Any:
        task = asyncio.current_task()
        cancellations = 0 if task is None else task.cancelling()
        try:
            return await getattr(super(_OverOurChannel, self), name)(*arguments)
        finally:
            if task is not None and task.cancelling() > cancellations:
                raise asyncio.CancelledError

    method.__name__ = name
    return method


class _OverOurChannel:
    """Replaces the last step of a chain, and lets those who wait be cancelled."""

    # Set by grpc's __init__.
    _channel: Channel
    # Where grpc's classes keep the call that a response iterator belongs to.
    _last_returned_call_from_interceptors: Any

    async def _run_interceptor(
        self,
        interceptors: Sequence[grpc.aio.ClientInterceptor],
        method: bytes,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
        details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        if interceptors:
            # Comes back here with one interceptor less.
            return await super()._run_interceptor(  # type: ignore[misc]  # grpc's class is the next in line
                interceptors, method, serializer, deserializer, details, request
            )
        call = self._start(details, request, serializer, deserializer)
        self._last_returned_call_from_interceptors = call
        return call

    def _start(
        self,
        details: grpc.aio.ClientCallDetails,
        request: Any,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> Any:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        start = self._multicallable()(method, serializer, deserializer)
        return start(
            request,
            timeout=details.timeout,
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        raise NotImplementedError

    initial_metadata = _cancellable("initial_metadata")
    trailing_metadata = _cancellable("trailing_metadata")
    code = _cancellable("code")
    details = _cancellable("details")
    debug_error_string = _cancellable("debug_error_string")

    def time_remaining(self) -> float | None:
        """
        Return the seconds until the deadline once the chain has started the call; None before, or
        without one.
        """
        task = self._interceptors_task  # type: ignore[attr-defined]  # of grpc's InterceptedCall
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        remaining: float | None = task.result().time_remaining()
        return remaining


class _WrittenOverOurChannel(_OverOurChannel):
    """Of calls with a request stream."""

    async def write(self, request: Any) -> None:
        """Send one message; cancelling it cancels the call, as without interceptors."""
        await self._cancelling(_write(self, request))

    async def done_writing(self) -> None:
        """Say that no more requests follow; as `write()`."""
        await self._cancelling(_done_writing(self))

    async def _cancelling(self, writing: Awaitable[Any]) -> None:
        try:
            await writing
        except asyncio.CancelledError:
            self.cancel()  # type: ignore[attr-defined]  # of grpc's InterceptedCall
            raise


_write = _cancellable("write")
_done_writing = _cancellable("done_writing")


class InterceptedUnaryUnaryCall(_OverOurChannel, grpc.aio.InterceptedUnaryUnaryCall):
    """A unary-unary call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_unary_unary


class InterceptedUnaryStreamCall(_OverOurChannel, _interceptor.InterceptedUnaryStreamCall):
    """A unary-stream call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_unary_stream


class InterceptedStreamUnaryCall(_WrittenOverOurChannel, _interceptor.InterceptedStreamUnaryCall):
    """A stream-unary call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_stream_unary


class InterceptedStreamStreamCall(_WrittenOverOurChannel, _interceptor.InterceptedStreamStreamCall):
    """A stream-stream call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_stream_stream
