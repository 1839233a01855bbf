"""
Goal: plain gRPC clients meet each bound of the hub with a clear status, and what fits passes.

Method: a hub with small bounds, a host behind it with the usual ones, and grpcio's own channel.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

import relayrpc.aio
from relayrpc.limits import KIB, MIB, Limits
from tests.support.relay import Stub, running_hub


pytestmark = pytest.mark.integration

AT = (("relay-address", "bounds"),)
MESSAGE_BYTES_MAX = MIB
METADATA_BYTES_MAX = 16 * KIB
DETAILS_KEY = "grpc-status-details-bin"


async def measure(request: bytes, context: Any) -> bytes:
    return str(len(request)).encode()


async def measure_all(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return str(sum([len(request) async for request in requests])).encode()


async def make(request: bytes, context: Any) -> bytes:
    return bytes(int(request))


async def make_two(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    yield bytes(int(request))


async def echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def metadata(request: bytes, context: Any) -> bytes:
    value = "v" * int(request)
    await context.send_initial_metadata((("initial", value),))
    context.set_trailing_metadata((("trailing", value),))
    return str(len(dict(context.invocation_metadata()).get("sent", ""))).encode()


async def fail_in_detail(request: bytes, context: Any) -> bytes:
    """Fail the way grpcio-status does."""
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="no such greeting: ä")
    status.details.add().Pack(error_details_pb2.RetryInfo())
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
    context.set_details(status.message)
    return b""


@contextlib.asynccontextmanager
async def bounded(**channel_options: Any) -> AsyncIterator[Stub]:
    limits = Limits(message_bytes_max=MESSAGE_BYTES_MAX, metadata_bytes_max=METADATA_BYTES_MAX)
    async with running_hub(limits=limits) as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/bounds")
        unary = grpc.unary_unary_rpc_method_handler
        server.add_registered_method_handlers(
            "test.Service",
            {
                "Measure": unary(measure),
                "MeasureAll": grpc.stream_unary_rpc_method_handler(measure_all),
                "Make": unary(make),
                "MakeTwo": grpc.unary_stream_rpc_method_handler(make_two),
                "EchoAll": grpc.stream_stream_rpc_method_handler(echo_all),
                "Metadata": unary(metadata),
                "FailInDetail": unary(fail_in_detail),
            },
        )
        await server.start()
        target = f"127.0.0.1:{hub.grpc_port}"
        async with grpc.aio.insecure_channel(target, **channel_options) as channel:
            yield Stub(channel)
        await server.stop(None)


async def test_messages_up_to_the_bound_pass() -> None:
    async with bounded() as stub:
        size = str(MESSAGE_BYTES_MAX).encode()
        largest = bytes(MESSAGE_BYTES_MAX)
        assert await stub.unary_unary("Measure")(largest, metadata=AT) == size
        assert len(await stub.unary_unary("Make")(size, metadata=AT)) == MESSAGE_BYTES_MAX
        assert [
            len(message) async for message in stub.unary_stream("MakeTwo")(size, metadata=AT)
        ] == [5, MESSAGE_BYTES_MAX]
        both = stub.stream_stream("EchoAll")(iter([largest] * 3), metadata=AT)
        assert [len(message) async for message in both] == [MESSAGE_BYTES_MAX] * 3


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
async def test_request_over_the_bound_is_refused(kind: str) -> None:
    async with bounded() as stub:
        over = bytes(MESSAGE_BYTES_MAX + 1)
        if kind == "unary_unary":
            call = stub.unary_unary("Measure")(over, metadata=AT)
        else:
            call = stub.stream_unary("MeasureAll")(iter([b"small", over]), metadata=AT)
        with pytest.raises(grpc.aio.AioRpcError, match=str(MESSAGE_BYTES_MAX)) as told:
            await call
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await stub.unary_unary("Measure")(b"next", metadata=AT) == b"4"


async def test_response_over_the_bound_is_refused_and_said_to_have_run() -> None:
    async with bounded() as stub:
        over = str(MESSAGE_BYTES_MAX + 1).encode()
        with pytest.raises(grpc.aio.AioRpcError, match=str(MESSAGE_BYTES_MAX)) as told:
            await stub.unary_unary("Make")(over, metadata=AT)
        check_hub_said_it_ran(told.value)
        with pytest.raises(grpc.aio.AioRpcError, match=str(MESSAGE_BYTES_MAX)) as told:
            async for message in stub.unary_stream("MakeTwo")(over, metadata=AT):
                # grpcio drops what came right before a status that is not OK.
                assert message == b"first"
        check_hub_said_it_ran(told.value)


def check_hub_said_it_ran(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = error.trailing_metadata()
    assert trailing.get_all("relay-origin") == ["hub"]
    assert trailing["relay-may-have-executed"] == "true"
    assert trailing["grpc-retry-pushback-ms"] == "-1"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_pass(compression: grpc.Compression) -> None:
    async with bounded(compression=compression) as stub:
        text = b"the same again and again, " * 4000
        size = str(len(text)).encode()
        assert await stub.unary_unary("Measure")(text, metadata=AT) == size
        both = stub.stream_stream("EchoAll")(iter([text, b"", text]), metadata=AT)
        assert [message async for message in both] == [text, b"", text]


async def test_request_that_is_over_the_bound_once_inflated_is_refused() -> None:
    async with bounded(compression=grpc.Compression.Gzip) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as told:
            await stub.unary_unary("Measure")(bytes(64 * MESSAGE_BYTES_MAX), metadata=AT)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metadata_up_to_the_bound_passes() -> None:
    # What a client takes is its own bound: 8 KiB unless it asks for more.
    options = [("grpc.max_metadata_size", 64 * KIB)]
    async with bounded(options=options) as stub:
        value = "v" * (METADATA_BYTES_MAX - KIB)
        call = stub.unary_unary("Metadata")(
            str(len(value)).encode(), metadata=(*AT, ("sent", value))
        )
        assert await call == str(len(value)).encode()
        assert (await call.initial_metadata())["initial"] == value
        assert (await call.trailing_metadata())["trailing"] == value


async def test_metadata_over_the_bound_is_refused() -> None:
    async with bounded() as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="metadata") as told:
            await stub.unary_unary("Metadata")(
                b"0", metadata=(*AT, ("sent", "v" * 4 * METADATA_BYTES_MAX))
            )
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await stub.unary_unary("Metadata")(b"0", metadata=AT) == b"0"


async def test_details_of_a_status_arrive_byte_for_byte() -> None:
    async with bounded() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stub.unary_unary("FailInDetail")(b"", metadata=AT)
        trailing = told.value.trailing_metadata()
        assert len(trailing.get_all(DETAILS_KEY)) == 1
        status = status_pb2.Status.FromString(trailing[DETAILS_KEY])
        # What grpcio-status checks.
        assert status.code == told.value.code().value[0]
        assert status.message == told.value.details() == "no such greeting: ä"
        assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
