"""
Client interceptors, run by grpc.aio's own machinery over this package's calls.

grpc's intercepted calls run the chain and, at its end, start a call on grpc's channel; only that
last step is replaced.
Source: grpc/aio/_interceptor.py of the grpcio versions that pyproject.toml allows;
tests/integration/test_interceptors.py notices a change there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class _OverOurChannel:
    """Replaces the last step of a chain."""

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


class InterceptedUnaryUnaryCall(_OverOurChannel, grpc.aio.InterceptedUnaryUnaryCall):
    """A unary-unary call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_unary_unary


class InterceptedUnaryStreamCall(_OverOurChannel, _interceptor.InterceptedUnaryStreamCall):
    """A unary-stream call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_unary_stream


class InterceptedStreamUnaryCall(_OverOurChannel, _interceptor.InterceptedStreamUnaryCall):
    """A stream-unary call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_stream_unary


class InterceptedStreamStreamCall(_OverOurChannel, _interceptor.InterceptedStreamStreamCall):
    """A stream-stream call behind interceptors."""

    def _multicallable(self) -> Callable[..., Callable[..., Any]]:
        return self._channel.plain_stream_stream
