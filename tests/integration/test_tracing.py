"""
Spans of one call in three places. Goal: caller, hub and host make one each, one below the other,
and none without an SDK. Method: all three in one process, with OpenTelemetry's own SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from relayrpc.limits import Limits
from tests.support.blocking import hub_thread, serving
from tests.support.fault_contract import OutOfStockFault
from tests.support.relay import ADDRESS, Stub, running_relay
from tests.support.until import until


pytestmark = pytest.mark.integration

KINDS = {"caller": SpanKind.CLIENT, "hub": SpanKind.SERVER, "host": SpanKind.SERVER}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Configures an SDK for one test; the API itself takes only one for a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def spans_of_call(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the three spans of the one call that was made, by place."""
    await until(lambda: len(relay_spans(exporter)) == 3)
    found = relay_spans(exporter)
    chain = sorted(found, key=lambda span: depth(span, found))
    return dict(zip(KINDS, chain, strict=True))


def relay_spans(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [
        span
        for span in exporter.get_finished_spans()
        if span.instrumentation_scope is not None and span.instrumentation_scope.name == "relayrpc"
    ]


def depth(span: ReadableSpan, among: list[ReadableSpan]) -> int:
    """How many of the spans are above one."""
    by_id = {each.get_span_context().span_id: each for each in among}
    count = 0
    while span.parent is not None and span.parent.span_id in by_id:
        span = by_id[span.parent.span_id]
        count += 1
    return count


async def echo(request: bytes, _context: Any) -> bytes:
    with trace.get_tracer("test").start_as_current_span("inside"):
        return request


async def count_up(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        trace.get_current_span().add_event("request")
        yield request


def plain(request: bytes, _context: Any) -> bytes:
    return trace.get_current_span().get_span_context().span_id.to_bytes(8, "big")


def plain_stream(request: bytes, _context: Any) -> Iterator[bytes]:
    for _ in range(2):
        yield trace.get_current_span().get_span_context().span_id.to_bytes(8, "big")


class PassOn(grpc.ServerInterceptor):
    """Changes nothing."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return continuation(details)


async def test_caller_hub_and_host_make_one_span_each(exporter: InMemorySpanExporter) -> None:
    async with running_relay({"uu:Echo": echo}) as relay:
        with trace.get_tracer("test").start_as_current_span("outside") as outside:
            assert await Stub(relay.channel).unary_unary("Echo")(b"x") == b"x"
        spans = await spans_of_call(exporter)
    above = outside.get_span_context()
    for place, span in spans.items():
        assert span.name == "test.Service/Echo"
        assert span.kind is KINDS[place]
        assert span.parent is not None
        assert span.parent.span_id == above.span_id, place
        assert span.get_span_context().trace_id == outside.get_span_context().trace_id
        assert span.attributes is not None
        assert {
            "rpc.system": "grpc",
            "rpc.service": "test.Service",
            "rpc.method": "Echo",
            "rpc.grpc.status_code": 0,
            "relayrpc.address": ADDRESS,
        }.items() <= dict(span.attributes).items()
        assert span.status.status_code is StatusCode.UNSET
        above = span.get_span_context()
    (inside,) = (span for span in exporter.get_finished_spans() if span.name == "inside")
    assert inside.parent is not None
    assert inside.parent.span_id == above.span_id
    assert spans["hub"].attributes is not None
    assert spans["hub"].attributes["relayrpc.instance"] == relay.server.live.instance


async def test_a_stream_has_one_span_too(exporter: InMemorySpanExporter) -> None:
    async with running_relay({"ss:Count": count_up}) as relay:
        call = Stub(relay.channel).stream_stream("Count")(iter([b"1", b"2"]))
        assert [each async for each in call] == [b"1", b"2"]
        spans = await spans_of_call(exporter)
    assert len(spans["host"].events) == 2


@pytest.mark.parametrize("shape", ["uu", "us"])
async def test_plain_handlers_run_in_the_span_of_their_call(
    exporter: InMemorySpanExporter, shape: str
) -> None:
    behavior: Any = plain if shape == "uu" else plain_stream
    async with running_relay({f"{shape}:Plain": behavior}) as relay:
        if shape == "uu":
            seen = {await Stub(relay.channel).unary_unary("Plain")(b"x")}
        else:
            seen = {each async for each in Stub(relay.channel).unary_stream("Plain")(b"x")}
        spans = await spans_of_call(exporter)
    assert seen == {spans["host"].get_span_context().span_id.to_bytes(8, "big")}


async def test_a_failure_is_told_by_all_three(exporter: InMemorySpanExporter) -> None:
    async def fail(_request: bytes, _context: Any) -> bytes:
        raise RuntimeError("a secret")

    async with running_relay({"uu:Fail": fail}) as relay:
        with pytest.raises(grpc.RpcError):
            await Stub(relay.channel).unary_unary("Fail")(b"x")
        spans = await spans_of_call(exporter)
    for place, span in spans.items():
        assert span.attributes is not None
        assert span.attributes["rpc.grpc.status_code"] == 2
        assert span.status.status_code is StatusCode.ERROR
        # What a handler said may hold anything.
        assert span.status.description is None
        if place != "host":
            assert span.attributes["relayrpc.origin"] == "host"
            assert span.attributes["relayrpc.may_have_executed"] is True
    (event,) = spans["host"].events
    assert event.name == "exception"


async def test_a_fault_is_an_answer_and_no_exception_of_the_host(
    exporter: InMemorySpanExporter,
) -> None:
    async def refuse(_request: bytes, _context: Any) -> bytes:
        raise OutOfStockFault({})

    async with running_relay({"uu:Refuse": refuse}) as relay:
        with pytest.raises(OutOfStockFault):
            await Stub(relay.channel).unary_unary("Refuse")(b"x")
        spans = await spans_of_call(exporter)
    assert not spans["host"].events


async def test_an_answer_that_is_no_fault_is_an_error_of_the_caller_only(
    exporter: InMemorySpanExporter,
) -> None:
    async def refuse(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        raise AssertionError

    async with running_relay({"uu:Refuse": refuse}) as relay:
        with pytest.raises(grpc.RpcError):
            await Stub(relay.channel).unary_unary("Refuse")(b"x")
        spans = await spans_of_call(exporter)
    codes = {place: span.status.status_code for place, span in spans.items()}
    assert codes == {
        "caller": StatusCode.ERROR,
        "hub": StatusCode.UNSET,
        "host": StatusCode.UNSET,
    }


async def test_a_cancelled_call_ends_all_its_spans(exporter: InMemorySpanExporter) -> None:
    is_running = asyncio.Event()

    async def wait(_request: bytes, _context: Any) -> bytes:
        is_running.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running_relay({"uu:Wait": wait}) as relay:
        call = Stub(relay.channel).unary_unary("Wait")(b"x")
        await is_running.wait()
        call.cancel()
        spans = await spans_of_call(exporter)
    for span in spans.values():
        assert span.attributes is not None
        assert span.attributes["rpc.grpc.status_code"] == 1


async def test_a_call_that_no_host_takes_has_spans_of_caller_and_hub(
    exporter: InMemorySpanExporter,
) -> None:
    async with running_relay({"uu:Echo": echo}) as relay:
        elsewhere = (("relay-address", "no/where"),)
        with pytest.raises(grpc.RpcError):
            await Stub(relay.channel).unary_unary("Echo")(b"x", metadata=elsewhere)
        await until(lambda: len(relay_spans(exporter)) == 2)
        for span in relay_spans(exporter):
            assert span.attributes is not None
            assert span.attributes["relayrpc.address"] == "no/where"
            assert span.attributes["relayrpc.origin"] == "hub"
            assert span.attributes["relayrpc.may_have_executed"] is False
            assert span.status.description == "no host listens at 'no/where'"


async def test_context_that_does_not_fit_is_left_out_and_the_call_goes_on(
    exporter: InMemorySpanExporter,
) -> None:
    received: list[Any] = []

    async def keep(request: bytes, context: Any) -> bytes:
        received.extend(context.invocation_metadata())
        return request

    room = Limits().metadata_bytes_max - len("filler") - 32
    async with running_relay({"uu:Keep": keep}) as relay:
        filler = (("filler", "x" * room),)
        assert await Stub(relay.channel).unary_unary("Keep")(b"x", metadata=filler) == b"x"
        await until(lambda: len(relay_spans(exporter)) == 3)
    assert [key for key, _ in received] == ["filler"]


async def test_parts_of_the_hub_make_no_spans_beside_its_own(
    exporter: InMemorySpanExporter,
) -> None:
    async with running_relay({"uu:Echo": echo}) as relay:
        at_hub = (("relay-address", "$hub"),)
        listing = Stub(relay.channel, "relayrpc.v1.Hub").unary_stream("List")
        assert [each async for each in listing(b"", metadata=at_hub)]
        await Stub(relay.channel).unary_unary("Echo")(b"x")
        await until(lambda: len(relay_spans(exporter)) == 5)
    names = sorted(span.name for span in relay_spans(exporter))
    assert names == ["relayrpc.v1.Hub/List"] * 2 + ["test.Service/Echo"] * 3


async def test_without_an_sdk_nothing_is_added() -> None:
    received: list[Any] = []

    async def keep(request: bytes, context: Any) -> bytes:
        received.extend(context.invocation_metadata())
        return request

    async with running_relay({"uu:Keep": keep}) as relay:
        await Stub(relay.channel).unary_unary("Keep")(b"x")
    assert received == []


# --- the blocking API ---


def caller_hub_and_host(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of the one blocking call that was made, from the caller's down."""
    found = relay_spans(exporter)
    assert len(found) == 3
    return sorted(found, key=lambda span: depth(span, found))


def raising(request: bytes, _context: Any) -> bytes:
    raise RuntimeError("a secret")


def test_blocking_call_is_below_the_span_of_its_own_thread(
    exporter: InMemorySpanExporter,
) -> None:
    with hub_thread() as hub, serving("relay", hub, {"uu:Plain": plain}) as channel:
        with trace.get_tracer("test").start_as_current_span("outside") as outside:
            seen = channel.unary_unary("/test.Service/Plain")(b"x")
        trace_id = outside.get_span_context().trace_id
    caller, hub_span, host = caller_hub_and_host(exporter)
    assert caller.parent is not None
    assert caller.parent.span_id == outside.get_span_context().span_id
    assert {span.get_span_context().trace_id for span in (caller, hub_span, host)} == {trace_id}
    assert seen == host.get_span_context().span_id.to_bytes(8, "big")


@pytest.mark.parametrize("interceptors", [(), (PassOn(),)], ids=["alone", "intercepted"])
def test_exception_of_a_blocking_handler_is_noted_on_its_span(
    exporter: InMemorySpanExporter, interceptors: Any
) -> None:
    behaviors = {"uu:Raising": raising}
    with (
        hub_thread() as hub,
        serving("relay", hub, behaviors, interceptors=interceptors) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary("/test.Service/Raising")(b"x")
    *_, host = caller_hub_and_host(exporter)
    (event,) = host.events
    assert event.name == "exception"
    assert host.attributes is not None
    assert host.attributes["rpc.grpc.status_code"] == 2
