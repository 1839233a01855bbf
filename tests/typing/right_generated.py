"""A program on generated callers and servicers, in which a type checker finds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import greeter_relay
from greeter_pb2 import ChatLine, HelloReply, HelloRequest, ListGreetingsRequest
from shop_pb2 import Order, Receipt
from shop_relay import TillCaller, TillSession, TillSessionSync

import relayrpc
import relayrpc.aio
from relayrpc import typed


async def call() -> None:
    async with relayrpc.aio.channel("relay://hub:7350/a") as channel:
        greeter = greeter_relay.GreeterCaller(channel)
        call = greeter.SayHello(HelloRequest(name="Ada"), timeout=1.0, metadata=(("k", "v"),))
        assert_type(call, typed.UnaryUnaryCall[HelloReply])
        assert_type(await call, HelloReply)
        call.cancel()
        async for each in greeter.ListGreetings(ListGreetingsRequest(), wait_for_ready=True):
            assert_type(each, HelloReply)
        assert_type(await greeter.CollectNames([HelloRequest()]), HelloReply)
        chat = greeter.Chat()
        await chat.write(ChatLine(text="hi"))
        await chat.done_writing()
        answer = await chat.read()
        assert_type(answer, ChatLine | typed.EOFType)
        if not isinstance(answer, typed.EOFType):
            assert_type(answer.text, str)


def block() -> None:
    with relayrpc.channel("relay://hub:7350/a") as channel:
        greeter = greeter_relay.GreeterCallerSync(channel)
        assert_type(greeter.SayHello(HelloRequest(name="Ada"), timeout=None), HelloReply)
        assert_type(greeter.CollectNames(iter([HelloRequest()])), HelloReply)
        stream = greeter.ListGreetings(ListGreetingsRequest())
        assert_type(stream, typed.StreamCallSync[HelloReply])
        for each in stream:
            assert_type(each, HelloReply)
        stream.cancel()


class Greeter:
    """Has what is needed; the names of parameters are its own."""

    async def SayHello(self, hello: HelloRequest, context: typed.ServicerContext) -> HelloReply:
        if context.session is not None:
            keep(context.session, hello.name)
        assert_type(context.time_remaining(), float | None)
        caller = context.callback(greeter_relay.GreeterCaller)
        assert_type(caller, greeter_relay.GreeterCaller)
        return await caller.SayHello(hello)

    async def ListGreetings(
        self, request: ListGreetingsRequest, context: typed.ServicerContext
    ) -> AsyncIterator[HelloReply]:
        yield HelloReply()

    async def CollectNames(
        self, requests: AsyncIterator[HelloRequest], context: object
    ) -> HelloReply:
        return HelloReply(message=" ".join([each.name async for each in requests]))

    async def Chat(
        self, lines: AsyncIterator[ChatLine], context: typed.ServicerContext
    ) -> AsyncIterator[ChatLine]:
        async for line in lines:
            yield line


def keep(session: relayrpc.aio.HostSession, name: str) -> None:
    session.data["greeted"] = name


def keep_sync(session: relayrpc.HostSession, name: str) -> None:
    session.data["greeted"] = name


class GreeterSync(greeter_relay.GreeterServicerSync):
    """Says that it is one."""

    def SayHello(self, request: HelloRequest, context: typed.ServicerContextSync) -> HelloReply:
        if context.session is not None:
            keep_sync(context.session, request.name)
        return HelloReply(message=request.name)

    def ListGreetings(
        self, request: ListGreetingsRequest, context: typed.ServicerContextSync
    ) -> Iterator[HelloReply]:
        yield HelloReply()

    def CollectNames(
        self, requests: Iterator[HelloRequest], context: typed.ServicerContextSync
    ) -> HelloReply:
        return HelloReply(message=" ".join(each.name for each in requests))

    def Chat(
        self, requests: Iterator[ChatLine], context: typed.ServicerContextSync
    ) -> Iterator[ChatLine]:
        return requests


async def serve() -> None:
    server = relayrpc.aio.server("relay://hub:7350/a")
    greeter_relay.add_GreeterServicer_to_server(Greeter(), server)
    greeter_relay.add_GreeterServicer_to_server(relayrpc.servicer(Greeter), server)
    await server.start()


async def call_within_session(channel: relayrpc.aio.Channel) -> None:
    async with channel.session() as session:
        await greeter_relay.GreeterCaller(session).SayHello(HelloRequest())
    callbacks = [(greeter_relay.add_GreeterServicer_to_server, Greeter())]
    relayrpc.aio.channel("relay://hub:7350/a", callbacks=callbacks)
    checked = typed.Callback(greeter_relay.add_GreeterServicer_to_server, Greeter())
    relayrpc.aio.channel("relay://hub:7350/a", callbacks=[checked])


async def visit(channel: relayrpc.aio.Channel) -> None:
    async with TillSession(channel) as till:
        assert_type(till, TillSession)
        assert_type(till.session, relayrpc.aio.Session)
        assert_type(await till.Open(Order()), Receipt)
        await till.Note(Order(), confirm="host")
        count(till)


def count(till: TillCaller) -> None:
    till.Note(Order())


def visit_blocking(channel: relayrpc.Channel) -> None:
    checked = typed.Callback(greeter_relay.add_GreeterServicerSync_to_server, GreeterSync())
    relayrpc.channel("relay://hub:7350/a", callbacks=[checked])
    with TillSessionSync(channel) as till:
        assert_type(till, TillSessionSync)
        assert_type(till.session, relayrpc.Session)
        assert_type(till.Open(Order()), Receipt)
        till.Note(Order(), confirm="hub")


def publish() -> None:
    callers = relayrpc.aio.CallbackSet(greeter_relay.GreeterCaller)
    callers.publish(greeter_relay.GreeterCaller.SayHello, HelloRequest())
    callers.publish("SayHello", HelloRequest())
    blocking = relayrpc.CallbackSet(greeter_relay.GreeterCallerSync)
    blocking.publish(greeter_relay.GreeterCallerSync.SayHello, HelloRequest())


def serve_blocking() -> None:
    server = relayrpc.server("relay://hub:7350/a")
    greeter_relay.add_GreeterServicerSync_to_server(GreeterSync(), server)
    server.start()


def contract() -> None:
    assert_type(greeter_relay.GreeterContract.fingerprint, bytes)
    assert_type(greeter_relay.GreeterCaller.contract, typed.Contract)
    assert_type(greeter_relay.GreeterContract.options.address, str)
