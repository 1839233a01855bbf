"""
Goal: generated stubs and servicers work through a hub as they do with grpc.aio, all four shapes,
async and plain.

Method: the greeter sample's generated code over a real hub; every carrier choice once, then one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from tests.support.plain_greeter import PlainGreeter
from tests.support.relay import ADDRESS, running_hub, running_relay


pytestmark = pytest.mark.integration

Request = greeter_pb2.HelloRequest
Reply = greeter_pb2.HelloReply
Line = greeter_pb2.ChatLine


class AsyncGreeter(greeter_pb2_grpc.GreeterServicer):
    """Coroutines and async generators."""

    async def SayHello(self, request: Request, context: Any) -> Reply:
        return Reply(message=f"Hello, {request.name}!")

    async def ListGreetings(self, request: Any, context: Any) -> AsyncIterator[Reply]:
        for number in range(1, request.count + 1):
            yield Reply(message=request.name, number=number)

    async def CollectNames(self, requests: AsyncIterator[Request], context: Any) -> Reply:
        return Reply(message=",".join([request.name async for request in requests]))

    async def Chat(self, requests: AsyncIterator[Line], context: Any) -> AsyncIterator[Line]:
        async for line in requests:
            yield Line(text=line.text.upper())


class ReadWriteGreeter(AsyncGreeter):
    """Coroutines that use context.read() and context.write()."""

    async def ListGreetings(self, request: Any, context: Any) -> None:  # type: ignore[override]
        for number in range(1, request.count + 1):
            await context.write(Reply(message=request.name, number=number))

    async def CollectNames(self, requests: Any, context: Any) -> Reply:
        names = []
        while (request := await context.read()) is not grpc.aio.EOF:
            names.append(request.name)
        return Reply(message=",".join(names))

    async def Chat(self, requests: Any, context: Any) -> None:  # type: ignore[override]
        while (line := await context.read()) is not grpc.aio.EOF:
            await context.write(Line(text=line.text.upper()))


async def check_all_shapes(channel: relayrpc.aio.Channel) -> None:
    stub = greeter_pb2_grpc.GreeterStub(channel)
    assert (await stub.SayHello(Request(name="Ada"))).message == "Hello, Ada!"

    listing = stub.ListGreetings(greeter_pb2.ListGreetingsRequest(name="Ada", count=300))
    assert [reply.number async for reply in listing] == list(range(1, 301))
    assert await listing.code() is grpc.StatusCode.OK

    names = [Request(name="Ada"), Request(name="Grace")]
    assert (await stub.CollectNames(iter(names))).message == "Ada,Grace"

    async def ask() -> AsyncIterator[Request]:
        for name in names:
            yield name

    assert (await stub.CollectNames(ask())).message == "Ada,Grace"
    collecting = stub.CollectNames()
    for name in names:
        await collecting.write(name)
    await collecting.done_writing()
    assert (await collecting).message == "Ada,Grace"

    chat = stub.Chat()
    for text in ("one", "two"):
        await chat.write(Line(text=text))
        assert (await chat.read()).text == text.upper()
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() is grpc.StatusCode.OK
    lines = [Line(text=str(number)) for number in range(50)]
    assert [line.text async for line in stub.Chat(iter(lines))] == [line.text for line in lines]


@pytest.mark.parametrize("greeter", [AsyncGreeter, ReadWriteGreeter, PlainGreeter])
async def test_caller_uses_all_four_shapes(greeter: type[Any]) -> None:
    def register(server: relayrpc.aio.Server) -> None:
        greeter_pb2_grpc.add_GreeterServicer_to_server(greeter(), server)

    async with running_relay(register=register) as relay:
        await check_all_shapes(relay.channel)


@pytest.mark.parametrize("carrier", ["auto", "grpc", "websocket"])
async def test_every_carrier_carries_all_four_shapes(carrier: Any) -> None:
    async with running_hub() as hub:
        url = f"relay://127.0.0.1:{hub.grpc_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, carrier=carrier)
        greeter_pb2_grpc.add_GreeterServicer_to_server(AsyncGreeter(), server)
        await server.start()
        try:
            async with relayrpc.aio.channel(url, carrier=carrier) as channel:
                await check_all_shapes(channel)
        finally:
            await server.stop(None)


async def test_service_without_address_is_found_by_its_name() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = relayrpc.aio.server(url)
        greeter_pb2_grpc.add_GreeterServicer_to_server(AsyncGreeter(), server)
        await server.start()
        try:
            async with relayrpc.aio.channel(url) as channel:
                await check_all_shapes(channel)
        finally:
            await server.stop(None)


async def test_unimplemented_method_of_a_servicer_says_so() -> None:
    def register(server: relayrpc.aio.Server) -> None:
        greeter_pb2_grpc.add_GreeterServicer_to_server(
            greeter_pb2_grpc.GreeterServicer(), server
        )

    async with running_relay(register=register) as relay:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await greeter_pb2_grpc.GreeterStub(relay.channel).SayHello(Request())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "Method not implemented!"


@pytest.mark.parametrize("size", [0, 1, 4091, 4092, 4093, 65_532, 65_533, 10 * 1024 * 1024])
async def test_message_of_any_size_arrives(size: int) -> None:
    message = bytes(size)
    echo = grpc.unary_unary_rpc_method_handler(_echo)
    chat = grpc.stream_stream_rpc_method_handler(_echo_all)

    def register_echo(server: relayrpc.aio.Server) -> None:
        server.add_registered_method_handlers("test.Echo", {"Echo": echo, "Chat": chat})

    async with running_relay(register=register_echo) as relay:
        assert await relay.channel.unary_unary("/test.Echo/Echo")(message) == message
        answers = relay.channel.stream_stream("/test.Echo/Chat")(iter([message, b"", message]))
        assert [answer async for answer in answers] == [message, b"", message]


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def _echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request
