"""Mistakes in a program on generated callers and servicers; each line says which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import greeter_relay
from greeter_pb2 import ChatLine, HelloReply, HelloRequest, ListGreetingsRequest
from right_generated import Greeter, GreeterSync
from shop_pb2 import Order, Receipt
from shop_relay import ShopCallerSync, TillSession, TillSessionSync

import relayrpc
import relayrpc.aio
from relayrpc import typed


async def call(greeter: greeter_relay.GreeterCaller) -> None:
    await greeter.SayHello(ListGreetingsRequest())  # error: arg-type
    await greeter.SayHello("Ada")  # error: arg-type
    await greeter.SayHello()  # error: call-arg
    await greeter.SayHello(HelloRequest(), 1.0)  # error: call-arg
    await greeter.SayHello(HelloRequest(), timeout="1 s")  # error: arg-type
    await greeter.SayHello(HelloRequest(), deadline=1.0)  # error: call-arg
    await greeter.SayGoodbye(HelloRequest())  # error: attr-defined
    reply = await greeter.SayHello(HelloRequest())
    assert reply.no_such_field  # error: attr-defined
    line: ChatLine = await greeter.SayHello(HelloRequest())  # error: assignment
    await greeter.ListGreetings(ListGreetingsRequest())  # error: misc
    for _ in greeter.ListGreetings(ListGreetingsRequest()):  # error: attr-defined
        pass
    await greeter.CollectNames([line])  # error: list-item
    await greeter.CollectNames(HelloRequest())  # error: arg-type
    await greeter.Chat().write(HelloRequest())  # error: arg-type


def block(greeter: greeter_relay.GreeterCallerSync) -> None:
    greeter.SayHello(ListGreetingsRequest())  # error: arg-type
    greeter.CollectNames()  # error: call-arg
    for each in greeter.ListGreetings(ListGreetingsRequest()):
        assert each.no_such_field  # error: attr-defined


def rent(shop: ShopCallerSync) -> None:
    shop.Rent(Order())  # error: deprecated


async def wait(greeter: greeter_relay.GreeterCallerSync) -> None:
    await greeter.SayHello(HelloRequest())  # error: misc


class MethodMissing:
    async def SayHello(self, request: HelloRequest, context: object) -> HelloReply:
        return HelloReply()


class TakesOther:
    async def SayHello(self, request: ChatLine, context: object) -> HelloReply:
        return HelloReply()

    ListGreetings: Any
    CollectNames: Any
    Chat: Any


class GivesOther:
    async def SayHello(self, request: HelloRequest, context: object) -> ChatLine:
        return ChatLine()

    ListGreetings: Any
    CollectNames: Any
    Chat: Any


class GivesOne:
    async def ListGreetings(self, request: ListGreetingsRequest, context: object) -> HelloReply:
        return HelloReply()

    SayHello: Any
    CollectNames: Any
    Chat: Any


class TakesOne:
    async def Chat(self, request: ChatLine, context: object) -> AsyncIterator[ChatLine]:
        yield request

    SayHello: Any
    ListGreetings: Any
    CollectNames: Any


class SaysThatItIsOne(greeter_relay.GreeterServicer):
    async def SayHello(
        self, request: HelloRequest, context: typed.ServicerContext
    ) -> HelloReply:
        return HelloReply()


def serve(server: relayrpc.aio.Server) -> None:
    greeter_relay.add_GreeterServicer_to_server(MethodMissing(), server)  # error: arg-type
    greeter_relay.add_GreeterServicer_to_server(TakesOther(), server)  # error: arg-type
    greeter_relay.add_GreeterServicer_to_server(GivesOther(), server)  # error: arg-type
    greeter_relay.add_GreeterServicer_to_server(GivesOne(), server)  # error: arg-type
    greeter_relay.add_GreeterServicer_to_server(TakesOne(), server)  # error: arg-type
    greeter_relay.add_GreeterServicer_to_server(GreeterSync(), server)  # error: arg-type
    SaysThatItIsOne()  # error: abstract


def join(channel: relayrpc.Channel, server: relayrpc.Server) -> None:
    greeter_relay.GreeterCaller(channel)  # error: arg-type, with types-grpcio
    add = greeter_relay.add_GreeterServicer_to_server
    add(Greeter(), server)  # error: arg-type, with types-grpcio
    greeter_relay.add_GreeterServicerSync_to_server(Greeter(), server)  # error: arg-type


async def visit(channel: typed.Channel, till: TillSession) -> None:
    TillSession(channel)  # error: arg-type, with types-grpcio
    await till.Open(Receipt())  # error: arg-type
    await till.Open(Order(), confirm="host")  # error: call-arg
    await till.Note(Order(), confirm="soon")  # error: arg-type
    with till:  # error: attr-defined
        pass


def call_back() -> None:
    add = greeter_relay.add_GreeterServicer_to_server
    typed.Callback(add, MethodMissing())  # error: arg-type
    typed.Callback(add, GreeterSync())  # error: arg-type


def publish(
    callers: relayrpc.aio.CallbackSet[greeter_relay.GreeterCaller],
    blocking: relayrpc.CallbackSet[greeter_relay.GreeterCallerSync],
) -> None:
    stub = greeter_relay.GreeterCaller
    callers.publish(stub.SayHello, ChatLine())  # error: arg-type
    callers.publish(stub.ListGreetings, ListGreetingsRequest())  # error: arg-type
    callers.publish(ShopCallerSync.Buy, Order())  # error: arg-type
    blocking.publish(greeter_relay.GreeterCallerSync.SayHello, ChatLine())  # error: arg-type


def visit_blocking(channel: typed.ChannelSync, till: TillSessionSync) -> None:
    TillSessionSync(channel)  # error: arg-type, with types-grpcio
    till.Open(Receipt())  # error: arg-type
    till.Note(Order(), confirm="soon")  # error: arg-type
