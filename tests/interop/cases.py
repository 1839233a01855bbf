"""
gRPC's standard interop cases, each a function of a client.

Whether a message was compressed on its way is not shown to programs in Python; the compressed cases
assert what is: that every way of asking for it is accepted and the messages are whole.
Source: gRPC's public description of its interop tests, "Client"; half_duplex from its older
editions, the soaks from its newer ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from tests.interop.client import SERVICE, UNIMPLEMENTED_SERVICE, Client, Outcome, Pairs
from tests.interop.interop_pb2 import (
    EchoStatus,
    Empty,
    InputRequest,
    OutputRequest,
    ResponseParameters,
    UnaryRequest,
)
from tests.interop.servicer import ECHO_INITIAL, ECHO_TRAILING


__all__ = ["CASES", "Case", "channel_soak", "concurrent_large_unary", "rpc_soak"]

Case = Callable[[Client], Awaitable[None]]
Code = grpc.StatusCode

REQUEST_SIZES: Final = (27182, 8, 1828, 45904)
RESPONSE_SIZES: Final = (31415, 9, 2653, 58979)
LARGE: Final = UnaryRequest(response_size=314159, payload=bytes(271828))
GZIP: Final = grpc.Compression.Gzip


def sizes(outcome: Outcome) -> list[int]:
    """How large the payloads are that came; what they hold is checked here."""
    for response in outcome.responses:
        assert not any(response.payload)
    return [len(response.payload) for response in outcome.responses]


def output_request(request_size: int, response_size: int) -> OutputRequest:
    wanted = ResponseParameters(size=response_size)
    return OutputRequest(response_parameters=[wanted], payload=bytes(request_size))


async def empty_unary(client: Client) -> None:
    outcome = await client.run(SERVICE["EmptyCall"], Empty())
    assert outcome.code is Code.OK, outcome
    assert outcome.responses == [Empty()]


async def large_unary(client: Client) -> None:
    outcome = await client.run(SERVICE["UnaryCall"], LARGE)
    assert outcome.code is Code.OK, outcome.details
    assert sizes(outcome) == [314159]


async def client_compressed_unary(client: Client) -> None:
    for compression in (GZIP, grpc.Compression.Deflate, grpc.Compression.NoCompression):
        outcome = await client.run(SERVICE["UnaryCall"], LARGE, compression=compression)
        assert outcome.code is Code.OK, outcome.details
        assert sizes(outcome) == [314159]


async def server_compressed_unary(client: Client) -> None:
    for is_compressed in (True, False):
        request = UnaryRequest(response_compressed=is_compressed)
        request.MergeFrom(LARGE)
        outcome = await client.run(SERVICE["UnaryCall"], request)
        assert outcome.code is Code.OK, outcome.details
        assert sizes(outcome) == [314159]


async def client_streaming(client: Client) -> None:
    requests = [InputRequest(payload=bytes(size)) for size in REQUEST_SIZES]
    outcome = await client.run(SERVICE["StreamingInputCall"], *requests)
    assert outcome.code is Code.OK, outcome.details
    assert [response.aggregated_payload_size for response in outcome.responses] == [74922]


async def client_compressed_streaming(client: Client) -> None:
    requests = [InputRequest(payload=bytes(size)) for size in (27182, 45904)]
    outcome = await client.run(SERVICE["StreamingInputCall"], *requests, compression=GZIP)
    assert outcome.code is Code.OK, outcome.details
    assert [response.aggregated_payload_size for response in outcome.responses] == [73086]


async def server_streaming(client: Client) -> None:
    wanted = [ResponseParameters(size=size) for size in RESPONSE_SIZES]
    request = OutputRequest(response_parameters=wanted)
    outcome = await client.run(SERVICE["StreamingOutputCall"], request)
    assert outcome.code is Code.OK, outcome.details
    assert sizes(outcome) == [*RESPONSE_SIZES]


async def server_compressed_streaming(client: Client) -> None:
    wanted = [
        ResponseParameters(size=31415, compressed=True),
        ResponseParameters(size=92653, compressed=False),
    ]
    request = OutputRequest(response_parameters=wanted)
    outcome = await client.run(SERVICE["StreamingOutputCall"], request)
    assert outcome.code is Code.OK, outcome.details
    assert sizes(outcome) == [31415, 92653]


async def ping_pong(client: Client) -> None:
    call = await client.open(SERVICE["FullDuplexCall"])
    for request_size, response_size in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
        await call.write(output_request(request_size, response_size))
        assert len((await call.read()).payload) == response_size
    await call.half_close()
    outcome = await call.end()
    assert outcome.code is Code.OK, outcome.details
    assert outcome.responses == []


async def half_duplex(client: Client) -> None:
    call = await client.open(SERVICE["HalfDuplexCall"])
    for request_size, response_size in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
        await call.write(output_request(request_size, response_size))
    await call.half_close()
    outcome = await call.end()
    assert outcome.code is Code.OK, outcome.details
    assert sizes(outcome) == [*RESPONSE_SIZES]


async def empty_stream(client: Client) -> None:
    outcome = await client.run(SERVICE["FullDuplexCall"])
    assert outcome.code is Code.OK, outcome.details
    assert outcome.responses == []


async def custom_metadata(client: Client) -> None:
    metadata: Pairs = [
        (ECHO_INITIAL, "test_initial_metadata_value"),
        (ECHO_TRAILING, b"\xab\xab\xab"),
    ]
    for method, request in (
        (SERVICE["UnaryCall"], LARGE),
        (SERVICE["FullDuplexCall"], output_request(271828, 314159)),
    ):
        outcome = await client.run(method, request, metadata=metadata)
        assert outcome.code is Code.OK, outcome.details
        assert sizes(outcome) == [314159]
        assert [pair for pair in outcome.initial if pair[0] == ECHO_INITIAL] == metadata[:1]
        assert [pair for pair in outcome.trailing if pair[0] == ECHO_TRAILING] == metadata[1:]


async def status_code_and_message(client: Client) -> None:
    await check_status(client, "test status message")


async def special_status_message(client: Client) -> None:
    await check_status(client, "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n")


async def check_status(client: Client, message: str) -> None:
    status = EchoStatus(code=2, message=message)
    for outcome in (
        await client.run(SERVICE["UnaryCall"], UnaryRequest(response_status=status)),
        await client.run(SERVICE["FullDuplexCall"], OutputRequest(response_status=status)),
    ):
        assert outcome.code is Code.UNKNOWN
        assert outcome.details == message
        assert outcome.responses == []


async def unimplemented_method(client: Client) -> None:
    outcome = await client.run(SERVICE["UnimplementedCall"], Empty())
    assert outcome.code is Code.UNIMPLEMENTED, outcome
    assert outcome.details.endswith("Method not implemented!")


async def unimplemented_service(client: Client) -> None:
    outcome = await client.run(UNIMPLEMENTED_SERVICE["UnimplementedCall"], Empty())
    assert outcome.code is Code.UNIMPLEMENTED, outcome


async def cancel_after_begin(client: Client) -> None:
    call = await client.open(SERVICE["StreamingInputCall"])
    await call.cancel()
    outcome = await call.end()
    assert outcome.code is Code.CANCELLED, outcome
    assert outcome.responses == []


async def cancel_after_first_response(client: Client) -> None:
    call = await client.open(SERVICE["FullDuplexCall"])
    await call.write(output_request(27182, 31415))
    assert len((await call.read()).payload) == 31415
    await call.cancel()
    outcome = await call.end()
    assert outcome.code is Code.CANCELLED, outcome
    assert outcome.responses == []


async def timeout_on_sleeping_server(client: Client) -> None:
    call = await client.open(SERVICE["FullDuplexCall"], timeout_s=0.001)
    await call.write(OutputRequest(payload=bytes(27182)))
    outcome = await call.end()
    assert outcome.code is Code.DEADLINE_EXCEEDED, outcome
    assert outcome.details.lower().startswith("deadline exceeded")
    assert outcome.responses == []


async def concurrent_large_unary(client: Client, *, calls_count: int = 10) -> None:
    async with asyncio.TaskGroup() as calls:
        for _ in range(calls_count):
            calls.create_task(large_unary(client))


async def rpc_soak(client: Client, *, calls_count: int = 10) -> None:
    for _ in range(calls_count):
        await large_unary(client)


async def channel_soak(client: Client, *, channels_count: int = 3) -> None:
    for _ in range(channels_count):
        async with client.another() as another:
            await large_unary(another)


CASES: Final[tuple[Case, ...]] = (
    empty_unary,
    large_unary,
    client_compressed_unary,
    server_compressed_unary,
    client_streaming,
    client_compressed_streaming,
    server_streaming,
    server_compressed_streaming,
    ping_pong,
    half_duplex,
    empty_stream,
    custom_metadata,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    concurrent_large_unary,
    rpc_soak,
    channel_soak,
)
