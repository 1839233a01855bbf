"""
The gRPC service that direct and relay both serve, and the caller that both use.

Source: samples/greeter/greeter.proto and benchmarks/bench.proto for the protobuf half; the other
half moves raw bytes.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio

from benchmarks import bench_pb2_grpc
from benchmarks.orders import Orders, order_calls, raw_handlers
from benchmarks.side import ADDRESS, CALL_TIMEOUT_S, STREAM_TIMEOUT_S, Caller, StreamCall, at
from samples.greeter import greeter_pb2, greeter_pb2_grpc


if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


__all__ = ["SERVICE", "GRPCCaller", "add_services"]

SERVICE: Final = "benchmarks.v1.Bytes"
STREAM_REQUEST: Final = struct.Struct("!QI")
"""How many messages, and their size in bytes."""
NAME: Final = "x" * 98
"""Makes a HelloRequest of 100 bytes."""


async def echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Answer with what was asked."""
    return request


async def stream(
    request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
) -> AsyncIterator[bytes]:
    """Send the messages asked for."""
    count, size_bytes = STREAM_REQUEST.unpack(request)
    message = bytes(size_bytes)
    sent_count = 0
    while sent_count < count or not count:
        yield message
        sent_count += 1


class Greeter(greeter_pb2_grpc.GreeterServicer):
    """The generated service, answering a request of 100 bytes with as many."""

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> greeter_pb2.HelloReply:
        """Answer with the name."""
        return greeter_pb2.HelloReply(message=request.name)


def add_services(server: grpc.aio.Server) -> None:
    """Serve bytes and messages."""
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        **raw_handlers(),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    # What grpcio-tools writes has no annotations.
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)  # type: ignore[no-untyped-call]
    bench_pb2_grpc.add_OrdersServicer_to_server(Orders(), server)  # type: ignore[no-untyped-call]


class GRPCCaller(Caller):
    """Calls through any grpc.aio channel."""

    def __init__(
        self, channel: grpc.aio.Channel, *, metadata: tuple[tuple[str, str], ...] | None = None
    ) -> None:
        """
        Args:
            channel: Closed with the caller.
            metadata: Of every call.
        """
        self._channel = channel
        options: dict[str, Any] = {"timeout": CALL_TIMEOUT_S, "metadata": metadata}
        self.echo = partial(channel.unary_unary(f"/{SERVICE}/Echo"), **options)
        self.echo_at = self._echo_at
        self._open_stream = partial(
            channel.unary_stream(f"/{SERVICE}/Stream"), timeout=STREAM_TIMEOUT_S, metadata=metadata
        )
        self.stream = self._stream
        stub = greeter_pb2_grpc.GreeterStub(channel)  # type: ignore[no-untyped-call]
        self.greet = partial(stub.SayHello, greeter_pb2.HelloRequest(name=NAME), **options)
        self.orders = order_calls(channel, SERVICE, options)

    async def check(self) -> None:
        """Make one call; whatever is wrong shows here and not in a measurement."""
        if await self.echo(b"ready") != b"ready":
            raise RuntimeError("the echo is not what was sent")

    async def aclose(self) -> None:
        """Close the channel."""
        await self._channel.close()

    def _echo_at(self, number: int) -> Callable[[bytes], Awaitable[bytes]]:
        return partial(self.echo, metadata=(("relay-address", at(ADDRESS, number)),))

    def _stream(self, count: int, size_bytes: int) -> StreamCall:
        request = STREAM_REQUEST.pack(count, size_bytes)
        return cast("StreamCall", self._open_stream(request))
