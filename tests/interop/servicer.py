"""
The server of the interop cases, for each kind of server: coroutines, and plain `def` handlers.

Owns: what the features that the cases need do. Source: gRPC's public description of its interop
tests, "Server"; interop.proto.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc

from tests.interop import interop_pb2, interop_pb2_grpc


__all__ = ["ECHO_INITIAL", "ECHO_TRAILING", "AioInterop", "BlockingInterop"]

ECHO_INITIAL: Final = "x-grpc-test-echo-initial"
ECHO_TRAILING: Final = "x-grpc-test-echo-trailing-bin"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class AioInterop(interop_pb2_grpc.InteropServicer):
    """For grpc.aio's server and the relay's."""

    async def EmptyCall(self, request: interop_pb2.Empty, context: Any) -> interop_pb2.Empty:
        return interop_pb2.Empty()

    async def UnaryCall(
        self, request: interop_pb2.UnaryRequest, context: Any
    ) -> interop_pb2.UnaryResponse:
        if request.response_compressed:
            context.set_compression(grpc.Compression.Gzip)
        await _echo(context)
        if request.HasField("response_status"):
            status = request.response_status
            await context.abort(_CODES[status.code], status.message)
        return _unary_response(request)

    async def StreamingInputCall(
        self, request_iterator: AsyncIterator[interop_pb2.InputRequest], context: Any
    ) -> interop_pb2.InputResponse:
        size = sum([len(request.payload) async for request in request_iterator])
        return interop_pb2.InputResponse(aggregated_payload_size=size)

    async def StreamingOutputCall(
        self, request: interop_pb2.OutputRequest, context: Any
    ) -> AsyncIterator[interop_pb2.OutputResponse]:
        _compress_where_asked(request, context)
        for response in _responses(request, context):
            yield response

    async def FullDuplexCall(
        self, request_iterator: AsyncIterator[interop_pb2.OutputRequest], context: Any
    ) -> AsyncIterator[interop_pb2.OutputResponse]:
        await _echo(context)
        async for request in request_iterator:
            if request.HasField("response_status"):
                _set_status(request.response_status, context)
                return
            for response in _responses(request, context):
                yield response

    async def HalfDuplexCall(
        self, request_iterator: AsyncIterator[interop_pb2.OutputRequest], context: Any
    ) -> AsyncIterator[interop_pb2.OutputResponse]:
        for request in [request async for request in request_iterator]:
            for response in _responses(request, context):
                yield response


class BlockingInterop(interop_pb2_grpc.InteropServicer):
    """For grpc's blocking server and the relay's."""

    def EmptyCall(self, request: interop_pb2.Empty, context: Any) -> interop_pb2.Empty:
        return interop_pb2.Empty()

    def UnaryCall(
        self, request: interop_pb2.UnaryRequest, context: Any
    ) -> interop_pb2.UnaryResponse:
        if request.response_compressed:
            context.set_compression(grpc.Compression.Gzip)
        _echo_now(context)
        if request.HasField("response_status"):
            status = request.response_status
            context.abort(_CODES[status.code], status.message)
        return _unary_response(request)

    def StreamingInputCall(
        self, request_iterator: Iterator[interop_pb2.InputRequest], context: Any
    ) -> interop_pb2.InputResponse:
        size = sum(len(request.payload) for request in request_iterator)
        return interop_pb2.InputResponse(aggregated_payload_size=size)

    def StreamingOutputCall(
        self, request: interop_pb2.OutputRequest, context: Any
    ) -> Iterator[interop_pb2.OutputResponse]:
        _compress_where_asked(request, context)
        yield from _responses(request, context)

    def FullDuplexCall(
        self, request_iterator: Iterator[interop_pb2.OutputRequest], context: Any
    ) -> Iterator[interop_pb2.OutputResponse]:
        _echo_now(context)
        for request in request_iterator:
            if request.HasField("response_status"):
                _set_status(request.response_status, context)
                return
            yield from _responses(request, context)

    def HalfDuplexCall(
        self, request_iterator: Iterator[interop_pb2.OutputRequest], context: Any
    ) -> Iterator[interop_pb2.OutputResponse]:
        for request in list(request_iterator):
            yield from _responses(request, context)


async def _echo(context: Any) -> None:
    initial, trailing = _echoes(context)
    if initial:
        await context.send_initial_metadata(initial)
    if trailing:
        context.set_trailing_metadata(trailing)


def _echo_now(context: Any) -> None:
    initial, trailing = _echoes(context)
    if initial:
        context.send_initial_metadata(initial)
    if trailing:
        context.set_trailing_metadata(trailing)


def _echoes(context: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What is sent back of the caller's metadata, as initial and as trailing."""
    received = [(key, value) for key, value in context.invocation_metadata()]
    initial, trailing = (
        tuple(pair for pair in received if pair[0] == key) for key in (ECHO_INITIAL, ECHO_TRAILING)
    )
    return initial, trailing


def _set_status(status: interop_pb2.EchoStatus, context: Any) -> None:
    context.set_code(_CODES[status.code])
    context.set_details(status.message)


def _unary_response(request: interop_pb2.UnaryRequest) -> interop_pb2.UnaryResponse:
    return interop_pb2.UnaryResponse(payload=bytes(request.response_size))


def _compress_where_asked(request: interop_pb2.OutputRequest, context: Any) -> None:
    if any(wanted.compressed for wanted in request.response_parameters):
        context.set_compression(grpc.Compression.Gzip)


def _responses(
    request: interop_pb2.OutputRequest, context: Any
) -> Iterator[interop_pb2.OutputResponse]:
    for wanted in request.response_parameters:
        if wanted.HasField("compressed") and not wanted.compressed:
            context.disable_next_message_compression()
        yield interop_pb2.OutputResponse(payload=bytes(wanted.size))
