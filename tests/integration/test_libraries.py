"""
Goal: the libraries that people have beside grpcio work on a relay's channels and servers as on
grpcio's own.

Method: each in its usual way on grpc.aio's own channel and server, and through a relay, with the
same assertions.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_interceptor import AsyncServerInterceptor
from grpc_interceptor.exception_to_status import AsyncExceptionToStatusInterceptor
from grpc_interceptor.exceptions import NotFound
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from opentelemetry.instrumentation.grpc import (
    GrpcAioInstrumentorClient,
    GrpcAioInstrumentorServer,
    aio_client_interceptors,
    aio_server_interceptor,
)
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from relayrpc.testing import run_hub
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.support.aio_sides import ServeAio
from tests.support.exposed import running_backend, running_exposed
from tests.support.relay import Stub, make_handlers


pytestmark = pytest.mark.integration


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def not_found(request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return b""


async def test_opentelemetry_spans_of_caller_and_host_are_one_trace(serve_aio: ServeAio) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    behaviors = {"uu:E": echo, "ss:S": echo_all, "uu:N": not_found}
    async with serve_aio(
        behaviors,
        server_options={"interceptors": [aio_server_interceptor(tracer_provider=provider)]},
        channel_options={"interceptors": aio_client_interceptors(tracer_provider=provider)},
    ) as channel:
        stub = Stub(channel)
        assert await stub.unary_unary("E")(b"x") == b"x"
        call = stub.stream_stream("S")(iter([b"a", b"b"]))
        assert [message async for message in call] == [b"a", b"b"]
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.unary_unary("N")(b"")
    spans = exporter.get_finished_spans()
    for method, status in (("E", 0), ("S", 0), ("N", 5)):
        pair = [span for span in spans if span.name == f"/test.Service/{method}"]
        kinds = {span.kind.name: span for span in pair}
        assert set(kinds) == {"CLIENT", "SERVER"}, method
        assert kinds["SERVER"].parent is not None
        assert kinds["SERVER"].parent.span_id == kinds["CLIENT"].context.span_id
        for span in pair:
            assert span.attributes is not None
            assert span.attributes["rpc.grpc.status_code"] == status
        assert kinds["SERVER"].attributes["net.peer.ip"] == "127.0.0.1"


@contextlib.contextmanager
def instrumented(*instrumentors: BaseInstrumentor) -> Iterator[InMemorySpanExporter]:
    """Patch grpc as programs do that want spans of everything; gives the spans that ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter
    finally:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()


async def test_opentelemetry_may_patch_everything_around_a_relay() -> None:
    """What a link runs over is not instrumented; the calls of a plain client are."""
    both = (GrpcAioInstrumentorClient(), GrpcAioInstrumentorServer())
    with instrumented(*both) as exporter:
        async with run_hub() as hub:
            server = hub.server("a", carrier="grpc")
            handlers = make_handlers({"uu:E": echo, "ss:S": echo_all})
            server.add_registered_method_handlers("test.Service", handlers)
            await server.start()
            stub = Stub(hub.channel("a", carrier="grpc"))
            assert await stub.unary_unary("E")(bytes(1_000_000)) == bytes(1_000_000)
            call = stub.stream_stream("S")(iter([b"a", b"b"]))
            assert [message async for message in call] == [b"a", b"b"]
            async with grpc.aio.insecure_channel(hub.grpc_target) as plain:
                method = Stub(plain).unary_unary("E")
                assert await method(b"x", metadata=(("relay-address", "a"),)) == b"x"
    assert [span.name for span in exporter.get_finished_spans()] == ["/test.Service/E"]


async def test_opentelemetry_sees_nothing_that_an_agent_asks_of_a_backend() -> None:
    """Neither health nor reflection; what it forwards is in the caller's span and the server's."""
    with instrumented(GrpcAioInstrumentorClient()) as exporter:
        async with (
            running_backend({"uu:E": echo}, has_health=True) as (authority, _),
            running_exposed(authority) as running,
        ):
            assert await Stub(running.channel).unary_unary("E")(b"x") == b"x"
    assert exporter.get_finished_spans() == ()


async def test_health_servicer_answers_and_tells_of_changes(serve_aio: ServeAio) -> None:
    servicer = health.aio.HealthServicer()
    statuses = health_pb2.HealthCheckResponse

    def register(server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

    async with serve_aio(register=register) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest())
        assert reply.status == statuses.SERVING
        watching = stub.Watch(health_pb2.HealthCheckRequest(service="a.B"))
        assert (await watching.read()).status == statuses.SERVICE_UNKNOWN
        await servicer.set("a.B", statuses.SERVING)
        assert (await watching.read()).status == statuses.SERVING
        await servicer.enter_graceful_shutdown()
        assert (await watching.read()).status == statuses.NOT_SERVING
        watching.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_servicer_lists_and_describes(serve_aio: ServeAio) -> None:
    name = pb.DESCRIPTOR.services_by_name["Greeter"].full_name

    def register(server: Any) -> None:
        greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
        reflection.enable_server_reflection((name, reflection.SERVICE_NAME), server)

    async with serve_aio(register=register) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
        ]
        listed, described = [
            reply async for reply in stub.ServerReflectionInfo(iter(requests))
        ]
        services = [service.name for service in listed.list_services_response.service]
        assert sorted(services) == sorted([name, reflection.SERVICE_NAME])
        (file,) = described.file_descriptor_response.file_descriptor_proto
        assert file == pb.DESCRIPTOR.serialized_pb


async def test_rich_status_is_read_of_the_call_and_of_its_error(serve_aio: ServeAio) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay={"seconds": 3}))
    status = status_pb2.Status(code=code_pb2.ABORTED, message="again", details=[detail])

    async def rich(request: bytes, context: Any) -> bytes:
        await context.abort_with_status(rpc_status.to_status(status))
        return b""

    async with serve_aio({"uu:M": rich}) as channel:
        call = Stub(channel).unary_unary("M")(b"")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert rpc_status.from_call(caught.value) == status
        assert await rpc_status.aio.from_call(call) == status


async def test_grpc_interceptor_wraps_handlers_and_turns_exceptions_into_statuses(
    serve_aio: ServeAio,
) -> None:
    seen: list[str] = []

    class Log(AsyncServerInterceptor):  # type: ignore[misc]  # its base has no types
        async def intercept(
            self, method: Any, request: Any, context: Any, method_name: str
        ) -> Any:
            seen.append(method_name)
            response = method(request, context)
            return response if hasattr(response, "__aiter__") else await response

    async def missing(request: bytes, context: Any) -> bytes:
        raise NotFound("no such thing")

    options = {"interceptors": [Log(), AsyncExceptionToStatusInterceptor()]}
    behaviors = {"uu:E": echo, "ss:S": echo_all, "uu:N": missing}
    async with serve_aio(behaviors, server_options=options) as channel:
        stub = Stub(channel)
        assert await stub.unary_unary("E")(b"x") == b"x"
        call = stub.stream_stream("S")(iter([b"a", b"b"]))
        assert [message async for message in call] == [b"a", b"b"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.unary_unary("N")(b"")
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.NOT_FOUND,
        "no such thing",
    )
    assert seen == [f"/test.Service/{method}" for method in "ESN"]
