"""A program that uses a relay with generated stubs, in which a type checker finds nothing."""

from __future__ import annotations

from typing import Any, assert_type

import greeter_relay
import grpc
import grpc.aio
from greeter_pb2 import HelloReply, HelloRequest, ListGreetingsRequest
from greeter_pb2_grpc import GreeterServicer, GreeterStub, add_GreeterServicer_to_server

import relayrpc
import relayrpc.aio


async def call() -> None:
    async with relayrpc.aio.channel("relay://hub:7350/a") as channel:
        plain: grpc.aio.Channel = channel
        stub = GreeterStub(channel)
        reply = await stub.SayHello(HelloRequest(name="Ada"), timeout=1.0)
        assert_type(reply, HelloReply)
        async for each in stub.ListGreetings(ListGreetingsRequest(count=3)):
            assert_type(each, HelloReply)
        try:
            await stub.CollectNames(iter([HelloRequest()]))
        except relayrpc.aio.RpcError as error:
            assert_type(error.may_have_executed, bool)
            assert_type(error.code(), grpc.StatusCode)
        await plain.close(grace=1.0)


async def serve(servicer: GreeterServicer) -> None:
    server = relayrpc.aio.server("relay://hub:7350/a")
    plain: grpc.aio.Server = server
    add_GreeterServicer_to_server(servicer, server)
    await plain.start()
    await server.wait_for_termination()


def block() -> None:
    with relayrpc.channel("relay://hub:7350/a") as channel:
        plain: grpc.Channel = channel
        reply = GreeterStub(plain).SayHello(HelloRequest(name="Ada"))
        assert_type(reply, HelloReply)


class OfGrpcio:
    """A servicer with the contexts of grpcio, served by generated code."""

    async def SayHello(
        self,
        request: HelloRequest,
        context: grpc.aio.ServicerContext[HelloRequest, HelloReply],
    ) -> HelloReply:
        return HelloReply()

    ListGreetings: Any
    CollectNames: Any
    Chat: Any


def serve_typed(server: relayrpc.aio.Server) -> None:
    greeter_relay.add_GreeterServicer_to_server(OfGrpcio(), server)


class ByHand(relayrpc.Fault[HelloRequest]):
    """A fault without generated code."""


def translate(error: Exception, context: Any) -> relayrpc.Fault | grpc.Status | None:
    if isinstance(error, KeyError):
        return ByHand({"name": error.args[0]})
    if isinstance(error, ValueError):
        return ByHand(HelloRequest()).to_status()
    return None


def serve_with_error_handlers() -> None:
    relayrpc.aio.server("relay://hub/a", error_handlers=[translate], strict_faults=True)
    relayrpc.server("relay://hub/a", error_handlers=[translate, lambda error, context: None])


class Counting(relayrpc.MessageInspector):
    def request(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
        call.data["bytes"] = len(data)
        call.metadata.append(("method", call.method))
        return data


def inspect(channel: relayrpc.aio.Channel, blocking: relayrpc.Channel) -> None:
    greeter_relay.GreeterCaller(relayrpc.inspect_channel(channel, Counting()))
    greeter_relay.GreeterCallerSync(relayrpc.inspect_channel(blocking, Counting()))
    relayrpc.aio.server("relay://hub/a", interceptors=[Counting()])
    relayrpc.server("relay://hub/a", interceptors=[Counting()])
