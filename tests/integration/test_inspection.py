"""
Goal: an inspector sees and changes the bytes of every message, at either end, with the metadata of
its call, whoever's servers and channels they are.

Method: two inspectors that put a mark around what passes, on grpcio's own servers and channels and
on the relay's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

import relayrpc
import relayrpc.aio
from relayrpc.testing import run_hub
from tests.support.aio_sides import ServeAio
from tests.support.blocking import HubThread, Serve, serving
from tests.support.fault_contract import OutOfStockFault
from tests.support.relay import ADDRESS, Stub, make_handlers


pytestmark = pytest.mark.integration


class Mark(relayrpc.MessageInspector):
    """Adds its letter to what leaves, and takes it off what comes; the other end the same."""

    def __init__(self, letter: bytes, *, at_host: bool) -> None:
        self.letter = letter
        self.at_host = at_host
        self.seen: list[tuple[str, bytes]] = []

    def request(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
        self.seen.append((call.method, data))
        call.data["requests"] = call.data.get("requests", 0) + 1
        return self.off(data) if self.at_host else data + self.letter

    def response(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
        self.seen.append((call.method, data))
        assert call.data["requests"]
        return data + self.letter if self.at_host else self.off(data)

    def off(self, data: bytes) -> bytes:
        assert data.endswith(self.letter), data
        return data.removesuffix(self.letter)


def marks(*, at_host: bool) -> list[Mark]:
    """In the order that each end wants: what is added last is taken off first."""
    made = [Mark(letter, at_host=at_host) for letter in (b"A", b"B")]
    return made[::-1] if at_host else made


async def echo(request: bytes, context: Any) -> bytes:
    return request.upper()


async def twice(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    yield request


async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([each async for each in requests])


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each.upper()


BEHAVIORS = {"uu:Echo": echo, "us:Twice": twice, "su:Join": join, "ss:Chat": chat}


async def test_inspectors_of_both_ends_see_every_message(serve_aio: ServeAio) -> None:
    at_host, at_caller = marks(at_host=True), marks(at_host=False)
    options = {"interceptors": at_host}
    async with serve_aio(BEHAVIORS, server_options=options) as channel:
        stub = Stub(relayrpc.inspect_channel(channel, *at_caller))
        assert await stub.unary_unary("Echo")(b"x") == b"X"
        assert [each async for each in stub.unary_stream("Twice")(b"x")] == [b"x", b"x"]
        assert await stub.stream_unary("Join")(iter([b"x", b"y"])) == b"xy"
        assert [each async for each in stub.stream_stream("Chat")(iter([b"x"]))] == [b"X"]
        call = stub.stream_stream("Chat")()
        await call.write(b"x")
        assert await call.read() == b"X"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        # The host's end of it without inspectors: what is on the wire.
        assert await Stub(channel).unary_unary("Echo")(b"xAB") == b"XAB"
    method = "test.Service/Echo"
    assert at_caller[0].seen[:2] == [(method, b"x"), (method, b"XA")]
    assert at_caller[1].seen[:2] == [(method, b"xA"), (method, b"XAB")]
    assert at_host[0].seen[:2] == [(method, b"xAB"), (method, b"XA")]


def echo_plain(request: bytes, context: Any) -> bytes:
    return request.upper()


def twice_plain(request: bytes, context: Any) -> Iterator[bytes]:
    yield request
    yield request


def join_plain(requests: Iterator[bytes], context: Any) -> bytes:
    return b"".join(requests)


def chat_plain(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    for each in requests:
        yield each.upper()


def test_inspectors_of_blocking_ends_see_every_message(serve: Serve) -> None:
    behaviors = {
        "uu:Echo": echo_plain, "us:Twice": twice_plain, "su:Join": join_plain, "ss:Chat": chat_plain
    }  # fmt: skip
    with serve(behaviors, interceptors=marks(at_host=True)) as channel:
        stub = Stub(relayrpc.inspect_channel(channel, *marks(at_host=False)))
        assert stub.unary_unary("Echo")(b"x") == b"X"
        response, call = stub.unary_unary("Echo").with_call(b"x", 30)
        assert (response, call.code()) == (b"X", grpc.StatusCode.OK)
        assert stub.unary_unary("Echo").future(b"x").result() == b"X"
        assert list(stub.unary_stream("Twice")(b"x")) == [b"x", b"x"]
        assert stub.stream_unary("Join")(iter([b"x", b"y"])) == b"xy"
        assert stub.stream_unary("Join").future(iter([b"x"])).result() == b"x"
        assert list(stub.stream_stream("Chat")(iter([b"x"]))) == [b"X"]
        assert Stub(channel).unary_unary("Echo")(b"xAB") == b"XAB"


class Signed(relayrpc.MessageInspector):
    """Signs requests in the metadata, and refuses at the host what is not signed."""

    def __init__(self, key: bytes, *, at_host: bool) -> None:
        self.key = key
        self.at_host = at_host

    def request(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
        signature = hmac.digest(self.key, data, hashlib.sha256)
        if not self.at_host:
            call.metadata.append(("signature-bin", signature))
        elif dict(call.metadata).get("signature-bin") != signature:
            raise PermissionError("not signed")
        return data


async def test_requests_are_signed_in_metadata(serve_aio: ServeAio) -> None:
    options = {"interceptors": [Signed(b"secret", at_host=True)]}
    async with serve_aio(BEHAVIORS, server_options=options) as channel:
        signed = relayrpc.inspect_channel(channel, Signed(b"secret", at_host=False))
        more = (("k", "v"),)
        assert await Stub(signed).unary_unary("Echo")(b"x", metadata=more) == b"X"
        assert [each async for each in Stub(signed).unary_stream("Twice")(b"x")] == [b"x", b"x"]
        other = relayrpc.inspect_channel(channel, Signed(b"other", at_host=False))
        for stub in (Stub(channel), Stub(other)):
            with pytest.raises(grpc.aio.AioRpcError, match="not signed"):
                await stub.unary_unary("Echo")(b"x")


def test_requests_of_blocking_calls_are_signed_in_metadata(serve: Serve) -> None:
    with serve({"uu:Echo": echo_plain}, interceptors=[Signed(b"k", at_host=True)]) as channel:
        signed = relayrpc.inspect_channel(channel, Signed(b"k", at_host=False))
        assert Stub(signed).unary_unary("Echo")(b"x", metadata=(("k", "v"),)) == b"X"
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).unary_unary("Echo")(b"x")
        assert caught.value.code() is grpc.StatusCode.INTERNAL


REFUSABLE = ("request", "response")


def never(request: bytes, context: Any) -> bytes:
    raise AssertionError("it was sent")


class Refusing(relayrpc.MessageInspector):
    """Refuses requests, or else responses, by a fault."""

    def __init__(self, what: str) -> None:
        self.what = what

    def request(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
        return self.refuse() if self.what == "request" else data

    def response(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
        return self.refuse() if self.what == "response" else data

    def refuse(self) -> bytes:
        raise OutOfStockFault(ResourceInfo(resource_name="A7"))


@pytest.mark.parametrize("what", REFUSABLE)
async def test_fault_of_an_inspector_at_the_host_is_sent(what: str) -> None:
    async with run_hub() as hub:
        server = hub.server(ADDRESS, interceptors=[Refusing(what)])
        server.add_registered_method_handlers("test.Service", make_handlers(BEHAVIORS))
        await server.start()
        stub = Stub(hub.channel(ADDRESS))
        with pytest.raises(OutOfStockFault):
            await stub.unary_unary("Echo")(b"x")
        with pytest.raises(OutOfStockFault):
            await stub.stream_unary("Join")(iter([b"x"]))


@pytest.mark.parametrize("what", REFUSABLE)
def test_fault_of_an_inspector_at_a_blocking_host_is_sent(
    relay_hub: HubThread, what: str
) -> None:
    behaviors = {"uu:Echo": echo_plain}
    with (
        serving("relay", relay_hub, behaviors, interceptors=[Refusing(what)]) as channel,
        pytest.raises(OutOfStockFault),
    ):
        Stub(channel).unary_unary("Echo")(b"x")


async def test_request_that_an_inspector_refuses_at_the_caller_is_not_sent(
    serve_aio: ServeAio,
) -> None:
    async with serve_aio({"uu:Echo": never, "us:Twice": never}) as channel:
        stub = Stub(relayrpc.inspect_channel(channel, Refusing("request")))
        for made in (stub.unary_unary("Echo"), stub.unary_stream("Twice")):
            with pytest.raises(OutOfStockFault):
                made(b"x")


def test_request_that_an_inspector_refuses_at_a_blocking_caller_is_not_sent(serve: Serve) -> None:
    with serve({"uu:Echo": never, "us:Twice": never}) as channel:
        stub = Stub(relayrpc.inspect_channel(channel, Refusing("request")))
        echo = stub.unary_unary("Echo")
        for made in (echo, echo.with_call, echo.future, stub.unary_stream("Twice")):
            with pytest.raises(OutOfStockFault):
                made(b"x")


async def test_other_messages_that_an_inspector_refuses_at_the_caller_end_the_call() -> None:
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        server.add_registered_method_handlers("test.Service", make_handlers(BEHAVIORS))
        await server.start()
        channel = hub.channel(ADDRESS)
        requests, responses = (
            Stub(relayrpc.inspect_channel(channel, Refusing(what))) for what in REFUSABLE
        )
        for call in (
            requests.stream_unary("Join")(iter([b"x"])),
            responses.unary_unary("Echo")(b"x"),
        ):
            with pytest.raises(relayrpc.aio.RpcError, match=r"Exception .*serializing") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INTERNAL


def test_other_messages_that_an_inspector_refuses_at_a_blocking_caller_end_the_call(
    relay_hub: HubThread,
) -> None:
    behaviors = {"uu:Echo": echo_plain, "su:Join": join_plain}
    with serving("relay", relay_hub, behaviors) as channel:
        requests, responses = (
            Stub(relayrpc.inspect_channel(channel, Refusing(what))) for what in REFUSABLE
        )
        for call, request in (
            (requests.stream_unary("Join"), iter([b"x"])),
            (responses.unary_unary("Echo"), b"x"),
        ):
            with pytest.raises(relayrpc.RpcError, match=r"Exception .*serializing") as caught:
                call(request)
            assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_sessions_and_callbacks_are_inspected_where_their_channels_are() -> None:
    async def call_back(request: bytes, context: Any) -> bytes:
        inspected = relayrpc.inspect_channel(context.caller(), *marks(at_host=False))
        return await Stub(inspected).unary_unary("Echo")(request)

    def add(servicer: Any, server: Any) -> None:
        server.add_registered_method_handlers("test.Service", make_handlers(servicer))

    async def marked(request: bytes, context: Any) -> bytes:
        assert request.endswith(b"AB")
        return request

    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Echo": call_back}))
        await server.start()
        channel = hub.channel(ADDRESS, callbacks=[(add, {"uu:Echo": marked})])
        async with channel.session() as session:
            assert await Stub(session).unary_unary("Echo")(b"x") == b"x"


async def test_service_objects_are_inspected() -> None:
    @relayrpc.service(instances="per_call")
    class Echoes:
        async def echo(self, request: bytes, context: Any) -> bytes:
            return request.upper()

    async with run_hub() as hub:
        server = hub.server(ADDRESS, interceptors=marks(at_host=True))
        handlers = make_handlers({"uu:Echo": relayrpc.servicer(Echoes).echo})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        inspected = relayrpc.inspect_channel(hub.channel(ADDRESS), *marks(at_host=False))
        assert await Stub(inspected).unary_unary("Echo")(b"x") == b"X"


async def test_inspected_channel_is_the_channel_behind_it(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel, relayrpc.inspect_channel(channel) as inspected:
        assert isinstance(inspected, grpc.aio.Channel)
        await inspected.channel_ready()
        assert inspected.get_state() is grpc.ChannelConnectivity.READY
        assert await Stub(inspected).unary_unary("Echo")(b"x") == b"X"
        await inspected.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


def test_inspected_blocking_channel_is_the_channel_behind_it(serve: Serve) -> None:
    states: list[grpc.ChannelConnectivity] = []
    with serve({"uu:Echo": echo_plain}) as channel:
        with relayrpc.inspect_channel(channel) as inspected:
            assert isinstance(inspected, grpc.Channel)
            inspected.subscribe(states.append)
            inspected.unsubscribe(states.append)
            assert Stub(inspected).unary_unary("Echo")(b"x") == b"X"
        with pytest.raises(ValueError, match="closed"):
            Stub(channel).unary_unary("Echo")(b"x")


async def test_method_that_is_not_served_stays_so(serve_aio: ServeAio) -> None:
    options = {"interceptors": marks(at_host=True)}
    async with serve_aio(BEHAVIORS, server_options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(channel).unary_unary("Nothing")(b"x")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
