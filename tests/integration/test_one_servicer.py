"""
Goal: a servicer does the same wherever a test runs it: in grpcio-testing, on a hub in memory, on a
real hub, for a plain gRPC client of that hub.

Method: one servicer with plain `def` handlers, which grpcio-testing asks for; the same calls and
assertions at each place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import grpc_testing
import pytest

from relayrpc.testing import ScratchHub, memory_hub, run_hub
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc


pytestmark = pytest.mark.integration

ADDRESS = "contoso/greeter"
SERVICE = pb.DESCRIPTOR.services_by_name["Greeter"]


class PlainGreeter(greeter_pb2_grpc.GreeterServicer):
    """Greets in all four shapes, in the language that the caller's metadata asks for."""

    def SayHello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloReply:
        if not request.name:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nobody to greet")
        context.set_trailing_metadata((("greeted", request.name),))
        return pb.HelloReply(message=f"{self._hello(context)}, {request.name}")

    def ListGreetings(
        self, request: pb.ListGreetingsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.HelloReply]:
        for number in range(1, request.count + 1):
            yield pb.HelloReply(message=f"{self._hello(context)}, {request.name}", number=number)
        if not request.count:
            context.set_code(grpc.StatusCode.OUT_OF_RANGE)
            context.set_details("no greetings were asked for")

    def CollectNames(
        self, request_iterator: Iterator[pb.HelloRequest], context: grpc.ServicerContext
    ) -> pb.HelloReply:
        names = [request.name for request in request_iterator]
        return pb.HelloReply(message=f"{self._hello(context)}, {' and '.join(names)}")

    def Chat(
        self, request_iterator: Iterator[pb.ChatLine], context: grpc.ServicerContext
    ) -> Iterator[pb.ChatLine]:
        for line in request_iterator:
            yield pb.ChatLine(text=f"you said: {line.text}")

    def _hello(self, context: grpc.ServicerContext) -> str:
        return {"fr": "Bonjour"}.get(dict(context.invocation_metadata()).get("language"), "Hello")


@dataclass
class Outcome:
    """What a caller has of a call that is over."""

    responses: list[Any] = field(default_factory=list)
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    trailers: dict[str, str] = field(default_factory=dict)


Call = Callable[..., Awaitable[Outcome]]
"""`await call(method, *requests, metadata=())`"""


def taken(rpc: Any) -> Iterator[Any]:
    """Take the responses of a call that is over; that there is none is told by an error."""
    with contextlib.suppress(ValueError):
        while True:
            yield rpc.take_response()


@contextlib.asynccontextmanager
async def in_grpcio_testing() -> AsyncIterator[Call]:
    server = grpc_testing.server_from_dictionary(
        {SERVICE: PlainGreeter()}, grpc_testing.strict_real_time()
    )

    def run(name: str, requests: tuple[Any, ...], metadata: Any) -> Outcome:
        method = SERVICE.methods_by_name[name]
        shape = [
            "stream" if is_stream else "unary"
            for is_stream in (method.client_streaming, method.server_streaming)
        ]
        invoke = getattr(server, f"invoke_{'_'.join(shape)}")
        if method.client_streaming:
            rpc = invoke(method, metadata, None)
            for request in requests:
                rpc.send_request(request)
            rpc.requests_closed()
        else:
            rpc = invoke(method, metadata, *requests, None)
        if not method.server_streaming:
            response, trailers, code, details = rpc.termination()
            responses = [] if response is None else [response]
        else:
            trailers, code, details = rpc.termination()
            responses = list(taken(rpc))
        return Outcome(responses, code, details, dict(trailers or ()))

    async def call(name: str, *requests: Any, metadata: Any = ()) -> Outcome:
        return await asyncio.to_thread(run, name, requests, metadata)

    yield call


def through(channel: grpc.aio.Channel, base_metadata: Any = ()) -> Call:
    """Call by a generated stub on a channel."""
    stub = greeter_pb2_grpc.GreeterStub(channel)

    async def call(name: str, *requests: Any, metadata: Any = ()) -> Outcome:
        method = SERVICE.methods_by_name[name]
        argument = iter(requests) if method.client_streaming else requests[0]
        rpc = getattr(stub, name)(argument, metadata=(*base_metadata, *metadata), timeout=60)
        outcome = Outcome()
        with contextlib.suppress(grpc.aio.AioRpcError):
            if method.server_streaming:
                async for response in rpc:
                    outcome.responses.append(response)
            else:
                outcome.responses.append(await rpc)
        outcome.code = await rpc.code()
        outcome.details = await rpc.details()
        outcome.trailers = dict(await rpc.trailing_metadata())
        return outcome

    return call


async def serve(hub: ScratchHub, **options: Any) -> None:
    server = hub.server(ADDRESS, **options)
    greeter_pb2_grpc.add_GreeterServicer_to_server(PlainGreeter(), server)
    await server.start()


@contextlib.asynccontextmanager
async def on_memory_hub() -> AsyncIterator[Call]:
    async with memory_hub() as hub:
        await serve(hub)
        yield through(hub.channel(ADDRESS))


@contextlib.asynccontextmanager
async def on_real_hub() -> AsyncIterator[Call]:
    async with run_hub() as hub:
        await serve(hub)
        yield through(hub.channel(ADDRESS))


@contextlib.asynccontextmanager
async def from_grpc_client() -> AsyncIterator[Call]:
    async with run_hub() as hub:
        await serve(hub, carrier="grpc")
        async with grpc.aio.insecure_channel(hub.grpc_target) as channel:
            yield through(channel, (("relay-address", ADDRESS),))


@pytest.fixture(
    params=[in_grpcio_testing, on_memory_hub, on_real_hub, from_grpc_client],
    ids=lambda place: place.__name__,
)
async def call(request: pytest.FixtureRequest) -> AsyncIterator[Call]:
    async with request.param() as call:
        yield call


async def test_unary_call_answers_with_trailing_metadata(call: Call) -> None:
    outcome = await call("SayHello", pb.HelloRequest(name="Ada"))
    assert outcome.responses == [pb.HelloReply(message="Hello, Ada")]
    assert outcome.code is grpc.StatusCode.OK
    assert outcome.trailers["greeted"] == "Ada"


async def test_metadata_reaches_the_handler(call: Call) -> None:
    metadata = (("language", "fr"),)
    outcome = await call("SayHello", pb.HelloRequest(name="Ada"), metadata=metadata)
    assert outcome.responses == [pb.HelloReply(message="Bonjour, Ada")]


async def test_abort_reaches_the_caller(call: Call) -> None:
    outcome = await call("SayHello", pb.HelloRequest())
    assert outcome.responses == []
    assert (outcome.code, outcome.details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "nobody to greet",
    )


async def test_response_stream_arrives_in_order(call: Call) -> None:
    outcome = await call("ListGreetings", pb.ListGreetingsRequest(name="Ada", count=50))
    assert [response.number for response in outcome.responses] == list(range(1, 51))
    assert outcome.code is grpc.StatusCode.OK


async def test_status_that_was_set_ends_the_response_stream(call: Call) -> None:
    outcome = await call("ListGreetings", pb.ListGreetingsRequest(name="Ada"))
    assert outcome.responses == []
    assert (outcome.code, outcome.details) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "no greetings were asked for",
    )


async def test_request_stream_is_read_to_its_end(call: Call) -> None:
    requests = [pb.HelloRequest(name=name) for name in ("Ada", "Grace", "Edsger")]
    outcome = await call("CollectNames", *requests)
    assert outcome.responses == [pb.HelloReply(message="Hello, Ada and Grace and Edsger")]
    assert (await call("CollectNames")).responses == [pb.HelloReply(message="Hello, ")]


async def test_streams_both_ways_answer_line_by_line(call: Call) -> None:
    lines = [pb.ChatLine(text=text) for text in ("hi", "", "bye")]
    outcome = await call("Chat", *lines)
    assert [response.text for response in outcome.responses] == [
        f"you said: {line.text}" for line in lines
    ]
