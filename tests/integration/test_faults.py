"""
Goal: a fault that a handler raises is the exception of its call, whoever serves and whoever calls,
and what is no fault of the contract tells callers nothing.

Method: handlers of every kind over a real hub on loopback, called by channels of every kind, and by
grpcio's own at the hub's gRPC port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import QuotaFailure, ResourceInfo
from grpc_status import rpc_status

import relayrpc
import relayrpc.aio
from relayrpc.testing import LoopbackHub, run_hub
from tests.support.blocking import HubThread
from tests.support.fault_contract import FREE, METHODS, SERVICE, OutOfStockFault, QuotaFault
from tests.support.relay import ADDRESS, Stub, make_handlers


pytestmark = pytest.mark.integration

SHAPES = {"UU": "unary_unary", "US": "unary_stream", "SU": "stream_unary", "SS": "stream_stream"}
BOOK = ResourceInfo(resource_type="book", resource_name="A7")


def sold_out() -> OutOfStockFault:
    return OutOfStockFault(BOOK, code=grpc.StatusCode.NOT_FOUND, reason="no book A7: ä")


def async_handlers(error: Callable[[], Exception]) -> dict[str, Callable[..., Any]]:
    """Handlers of all shapes that raise, those with a stream of responses behind one of them."""

    async def one(request: Any, context: Any) -> bytes:
        raise error()

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error()

    return {"uu:UU": one, "us:US": many, "su:SU": one, "ss:SS": many, "uu:Look": one}


def plain_handlers(error: Callable[[], Exception]) -> dict[str, Callable[..., Any]]:
    """The same for threads."""

    def one(request: Any, context: Any) -> bytes:
        raise error()

    def many(request: Any, context: Any) -> Iterator[bytes]:
        yield b"first"
        raise error()

    return {"uu:UU": one, "us:US": many, "su:SU": one, "ss:SS": many, "uu:Look": one}


@contextlib.asynccontextmanager
async def served(
    behaviors: dict[str, Callable[..., Any]], *, service: str = SERVICE, **options: Any
) -> AsyncIterator[tuple[LoopbackHub, Stub]]:
    async with run_hub() as hub:
        server = hub.server(ADDRESS, **options)
        server.add_registered_method_handlers(service, make_handlers(behaviors))
        await server.start()
        yield hub, Stub(hub.channel(ADDRESS), service)


@contextlib.contextmanager
def served_sync(
    hub: HubThread,
    behaviors: dict[str, Callable[..., Any]],
    *,
    service: str = SERVICE,
    **options: Any,
) -> Iterator[Stub]:
    with ThreadPoolExecutor(4) as pool:
        server = relayrpc.server(hub.url(), pool, **options)
        server.add_registered_method_handlers(service, make_handlers(behaviors))
        server.start()
        with relayrpc.channel(hub.url()) as channel:
            yield Stub(channel, service)
        server.stop(None)


async def call_aio(stub: Stub, method: str) -> None:
    """Call, and read whatever comes."""
    made = getattr(stub, SHAPES.get(method, "unary_unary"))(method)
    call = made(iter([b"x"]) if method[0] == "S" else b"x")
    if method[1] == "S":
        async for response in call:
            assert response == b"first"
    else:
        await call


def call_sync(stub: Stub, method: str) -> None:
    made = getattr(stub, SHAPES.get(method, "unary_unary"))(method)
    call = made(iter([b"x"]) if method[0] == "S" else b"x")
    if method[1] == "S":
        for response in call:
            assert response == b"first"


def check_sold_out(fault: Any) -> None:
    assert fault.detail == BOOK
    assert fault.code() is grpc.StatusCode.NOT_FOUND
    assert fault.details() == "no book A7: ä"
    assert (fault.origin, fault.may_have_executed) == ("host", True)


# --- raised here, caught there ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("handlers", [async_handlers, plain_handlers])
async def test_fault_of_a_handler_is_caught_by_its_caller(handlers: Any, method: str) -> None:
    async with served(handlers(sold_out)) as (_, stub):
        with pytest.raises(OutOfStockFault) as caught:
            await call_aio(stub, method)
    check_sold_out(caught.value)
    assert isinstance(caught.value, relayrpc.aio.RpcError)


@pytest.mark.parametrize("method", METHODS)
def test_fault_of_a_blocking_handler_is_caught_by_its_blocking_caller(
    relay_hub: HubThread, method: str
) -> None:
    with (
        served_sync(relay_hub, plain_handlers(sold_out)) as stub,
        pytest.raises(OutOfStockFault) as caught,
    ):
        call_sync(stub, method)
    check_sold_out(caught.value)
    assert isinstance(caught.value, relayrpc.RpcError)


@pytest.mark.parametrize("handlers", [async_handlers, plain_handlers])
async def test_fault_of_a_callback_is_caught_by_the_host(handlers: Any) -> None:
    caught: list[OutOfStockFault] = []

    async def call_back(request: bytes, context: Any) -> bytes:
        caller = context.callback(lambda channel: Stub(channel, SERVICE))
        for method in METHODS:
            try:
                await call_aio(caller, method)
            except OutOfStockFault as fault:
                caught.append(fault)
        return b""

    def add(behaviors: Any, server: Any) -> None:
        server.add_registered_method_handlers(SERVICE, make_handlers(behaviors))

    async with served({"uu:UU": call_back}, service="test.Service") as (hub, _):
        channel = hub.channel(ADDRESS, callbacks=[(add, handlers(sold_out))])
        await Stub(channel).unary_unary("UU")(b"")
    assert len(caught) == len(METHODS)
    for fault in caught:
        check_sold_out(fault)


def test_fault_of_a_blocking_callback_is_caught_by_the_blocking_host(relay_hub: HubThread) -> None:
    caught: list[OutOfStockFault] = []

    def call_back(request: bytes, context: Any) -> bytes:
        caller = context.callback(lambda channel: Stub(channel, SERVICE))
        for method in METHODS:
            try:
                call_sync(caller, method)
            except OutOfStockFault as fault:
                caught.append(fault)
        return b""

    def add(behaviors: Any, server: Any) -> None:
        server.add_registered_method_handlers(SERVICE, make_handlers(behaviors))

    callbacks = [(add, plain_handlers(sold_out))]
    with (
        served_sync(relay_hub, {"uu:UU": call_back}, service="test.Service"),
        relayrpc.channel(relay_hub.url(), callbacks=callbacks) as channel,
    ):
        Stub(channel).unary_unary("UU")(b"", timeout=60)
    assert len(caught) == len(METHODS)
    for fault in caught:
        check_sold_out(fault)
        assert isinstance(fault, relayrpc.RpcError)


async def test_fault_passes_interceptors_of_both_sides() -> None:
    seen: list[type[BaseException]] = []

    class Outer(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                seen.append(type(error))
                raise

    class Inner(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    options = {"interceptors": [Inner()]}
    async with served(async_handlers(sold_out), **options) as (hub, _):
        stub = Stub(hub.channel(ADDRESS, interceptors=[Outer()]), SERVICE)
        with pytest.raises(OutOfStockFault) as caught:
            await call_aio(stub, "UU")
    check_sold_out(caught.value)
    assert seen == [type(caught.value)]


def test_fault_passes_interceptors_of_blocking_sides(relay_hub: HubThread) -> None:
    seen: list[type[BaseException]] = []

    class Outer(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = continuation(details, request)
            seen.append(type(call.exception()))
            return call

    class Inner(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            return continuation(details)

    with (
        served_sync(relay_hub, plain_handlers(sold_out), interceptors=[Inner()]),
        relayrpc.channel(relay_hub.url()) as channel,
        pytest.raises(OutOfStockFault) as caught,
    ):
        call_sync(Stub(grpc.intercept_channel(channel, Outer()), SERVICE), "UU")
    check_sold_out(caught.value)
    assert seen == [type(caught.value)]


async def test_fault_is_the_end_of_calls_of_sessions_and_of_calls_that_run_once() -> None:
    """A call with a dedupe key has one outcome, which its host remembers: faults, too."""
    runs: list[bytes] = []

    async def handler(request: bytes, context: Any) -> bytes:
        runs.append(request)
        raise sold_out()

    async with served({"uu:UU": handler}) as (hub, stub):
        once = (("relay-dedupe-key", "1"),)
        for _ in range(2):
            with pytest.raises(OutOfStockFault) as caught:
                await stub.unary_unary("UU")(b"x", metadata=once)
            check_sold_out(caught.value)
        assert len(runs) == 1
        async with hub.channel(ADDRESS).session() as session:
            for _ in range(2):
                with pytest.raises(OutOfStockFault):
                    await call_aio(Stub(session, SERVICE), "UU")
    assert len(runs) == 3


async def test_what_the_handler_has_set_goes_with_its_fault() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("not this")
        context.set_trailing_metadata((("k", "v"), ("grpc-status-details-bin", b"nor this")))
        raise sold_out()

    async with served({"uu:UU": handler}) as (_, stub):
        with pytest.raises(OutOfStockFault) as caught:
            await call_aio(stub, "UU")
    check_sold_out(caught.value)
    trailing = caught.value.trailing_metadata()
    assert [key for key, _ in trailing] == ["k", "grpc-status-details-bin"]


def test_fault_that_is_no_error_of_a_call_came_with_nothing() -> None:
    assert list(sold_out().trailing_metadata()) == []


async def test_fault_set_by_hand_is_caught() -> None:
    """As programs do it that know no fault class; what is declared is not asked."""

    async def handler(request: bytes, context: Any) -> bytes:
        fault = QuotaFault({"violations": [{"subject": "ada"}]}, reason="no more")
        await context.abort_with_status(fault.to_status())

    async with served({"uu:UU": handler}) as (_, stub):
        with pytest.raises(QuotaFault, match="no more") as caught:
            await call_aio(stub, "UU")
    assert caught.value.detail.violations[0].subject == "ada"


# --- any gRPC client ---


async def test_plain_grpc_client_reads_the_fault_at_the_hub() -> None:
    async with served(async_handlers(sold_out)) as (hub, _):
        target = f"127.0.0.1:{hub.hub.grpc_port}"
        at = (("relay-address", ADDRESS),)
        async with grpc.aio.insecure_channel(target) as channel:
            call = channel.unary_unary(f"/{SERVICE}/UU")(b"x", metadata=at)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            status = await rpc_status.aio.from_call(call)
    assert (status.code, status.message) == (5, "no book A7: ä")
    detail = ResourceInfo()
    assert status.details[0].Unpack(detail)
    assert detail == BOOK
    fault = OutOfStockFault.from_error(caught.value)
    check_sold_out(fault)
    assert QuotaFault.from_error(caught.value) is None


async def test_plain_grpc_client_that_takes_more_metadata_reads_a_large_fault() -> None:
    """Without the option gRPC refuses some of more than 8 KiB."""
    text = "x" * 12_000

    def large() -> OutOfStockFault:
        return OutOfStockFault({"description": text})

    async with served(async_handlers(large)) as (hub, _):
        target = f"127.0.0.1:{hub.hub.grpc_port}"
        options = [("grpc.max_metadata_size", 16384)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/UU")(
                    b"x", metadata=(("relay-address", ADDRESS),)
                )
    fault = OutOfStockFault.from_error(caught.value)
    assert fault is not None
    assert fault.detail.description == text


def test_blocking_plain_grpc_client_reads_the_fault_at_the_hub(relay_hub: HubThread) -> None:
    with (
        served_sync(relay_hub, plain_handlers(sold_out)),
        grpc.insecure_channel(f"127.0.0.1:{relay_hub.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        at = (("relay-address", "contoso/test"),)
        channel.unary_unary(f"/{SERVICE}/UU")(b"x", metadata=at)
    assert rpc_status.from_call(caught.value).details[0].Is(ResourceInfo.DESCRIPTOR)
    check_sold_out(OutOfStockFault.from_error(caught.value))


async def test_fault_is_raised_on_grpcios_own_server_by_its_status() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        await context.abort_with_status(sold_out().to_status())

    server = grpc.aio.server()
    server.add_registered_method_handlers(SERVICE, make_handlers({"uu:UU": handler}))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/UU")(b"x")
    await server.stop(None)
    check_sold_out(OutOfStockFault.from_error(caught.value))


# --- what is sent ---


def over_quota() -> QuotaFault:
    return QuotaFault(QuotaFailure(), reason="secret")


async def test_undeclared_fault_is_any_exception(caplog: pytest.LogCaptureFixture) -> None:
    async with served(async_handlers(over_quota)) as (_, stub):
        for method in (*METHODS, "Look"):
            caplog.clear()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await call_aio(stub, method)
            error = caught.value
            assert (error.details() or "").startswith("the handler failed, incident ")
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert relayrpc.Fault.from_error(error) is None
            assert "secret" not in str(error)
            (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
            told = record.getMessage()
            assert told.endswith(
                f": {SERVICE}/{method} does not declare the fault google.rpc.QuotaFailure; add it "
                "to the operation's faults in the .proto file, or make the server with "
                "strict_faults=False"
            )
            assert told.startswith(f"handler of /{SERVICE}/{method} failed, incident")


async def test_fault_that_another_operation_declares_is_not_sent() -> None:
    async with served(async_handlers(sold_out)) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError, match="the handler failed") as caught:
            await call_aio(stub, "Look")
        assert not isinstance(caught.value, relayrpc.Fault)


def test_undeclared_fault_of_a_blocking_handler_is_any_exception(relay_hub: HubThread) -> None:
    with (
        served_sync(relay_hub, plain_handlers(over_quota)) as stub,
        pytest.raises(relayrpc.RpcError, match="the handler failed, incident") as caught,
    ):
        call_sync(stub, "US")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert not isinstance(caught.value, relayrpc.Fault)


@pytest.mark.parametrize(
    ("service", "strict", "is_sent"),
    [
        (SERVICE, None, False),
        (SERVICE, True, False),
        (SERVICE, False, True),
        (FREE, None, True),
        (FREE, True, False),
        (FREE, False, True),
        ("test.Unknown", None, True),
        ("test.Unknown", True, False),
    ],
)
async def test_undeclared_fault_is_sent_where_nothing_is_strict(
    service: str, strict: bool | None, is_sent: bool
) -> None:
    options = {"service": service, "strict_faults": strict}
    async with served(async_handlers(over_quota), **options) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await call_aio(stub, "UU")
    assert isinstance(caught.value, QuotaFault) is is_sent


@pytest.mark.parametrize(("service", "is_sent"), [(SERVICE, True), (FREE, False)])
async def test_fault_of_another_call_is_passed_on_only_where_it_is_declared(
    service: str, is_sent: bool
) -> None:
    """A handler that lets the error of its own call through must not tell what nobody expects."""
    async with served(async_handlers(sold_out)) as (hub, stub):

        async def call_on(request: bytes, context: Any) -> bytes:
            await call_aio(stub, "UU")
            return b""

        front = hub.server("contoso/front")
        front.add_registered_method_handlers(service, make_handlers({"uu:UU": call_on}))
        await front.start()
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await call_aio(Stub(hub.channel("contoso/front"), service), "UU")
    assert isinstance(caught.value, OutOfStockFault) is is_sent
    if is_sent:
        check_sold_out(caught.value)


async def test_fault_too_large_for_metadata_is_named_to_the_caller_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def too_large() -> OutOfStockFault:
        return OutOfStockFault({"description": "x" * 70_000})

    async with served(async_handlers(too_large)) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await call_aio(stub, "UU")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = r"google\.rpc\.ResourceInfo is not sent: metadata of 70\d+ bytes is over 16384 bytes"
    assert re.fullmatch(f"the fault {told}", caught.value.details() or "")
    logged = told.replace(" is not", f" of /{re.escape(SERVICE)}/UU is not")
    assert re.search(f"the fault {logged}", caplog.text)


def test_fault_of_a_plain_handler_too_large_for_metadata_is_named(
    relay_hub: HubThread, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large() -> OutOfStockFault:
        return OutOfStockFault({"description": "x" * 70_000})

    with (
        served_sync(relay_hub, plain_handlers(too_large)) as stub,
        pytest.raises(relayrpc.RpcError, match="ResourceInfo is not sent: metadata"),
    ):
        call_sync(stub, "US")
    assert f"the fault google.rpc.ResourceInfo of /{SERVICE}/US is not sent" in caplog.text


async def test_undeclared_fault_is_told_as_exceptions_are_where_the_server_says_so() -> None:
    options = {"include_exception_detail": True}
    async with served(async_handlers(over_quota), **options) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await call_aio(stub, "UU")
        assert caught.value.details() == f"Unexpected {QuotaFault}: secret"
        assert not isinstance(caught.value, relayrpc.Fault)
    async with served(async_handlers(sold_out), **options) as (_, stub):
        with pytest.raises(OutOfStockFault) as sent:
            await call_aio(stub, "UU")
    check_sold_out(sent.value)


# --- error handlers ---


def raise_key_error() -> Exception:
    return KeyError("A7")


async def test_error_handlers_are_asked_in_turn_and_the_first_answer_counts() -> None:
    asked: list[tuple[str, type[Exception], str]] = []

    def note(error: Exception, context: Any) -> None:
        asked.append(("note", type(error), context.method))

    def translate(error: Exception, context: Any) -> OutOfStockFault:
        asked.append(("translate", type(error), context.method))
        return sold_out()

    def too_late(error: Exception, context: Any) -> Any:
        asked.append(("too_late", type(error), context.method))
        return QuotaFault(QuotaFailure()).to_status()

    options = {"error_handlers": [note, translate, too_late]}
    async with served(async_handlers(raise_key_error), **options) as (_, stub):
        for method in METHODS:
            asked.clear()
            with pytest.raises(OutOfStockFault) as caught:
                await call_aio(stub, method)
            check_sold_out(caught.value)
            assert asked == [
                (name, KeyError, f"{SERVICE}/{method}")
                for name in ("note", "translate", "too_late")
            ]


def test_error_handlers_run_on_the_thread_of_a_blocking_handler(relay_hub: HubThread) -> None:
    threads: list[str] = []

    def translate(error: Exception, context: Any) -> grpc.Status:
        threads.append(threading.current_thread().name)
        assert isinstance(context, grpc.ServicerContext)
        assert dict(context.invocation_metadata())["k"] == "v"
        return sold_out().to_status()

    options = {"error_handlers": [translate]}
    with (
        served_sync(relay_hub, plain_handlers(raise_key_error), **options) as stub,
        pytest.raises(OutOfStockFault) as caught,
    ):
        stub.unary_unary("UU")(b"x", metadata=(("k", "v"),))
    check_sold_out(caught.value)
    (thread,) = threads
    assert thread.startswith("ThreadPoolExecutor")


async def test_error_handlers_are_not_asked_about_ends_that_are_meant() -> None:
    def never(error: Exception, context: Any) -> None:
        raise AssertionError(error)

    async def abort(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    def abort_plain(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    behaviors = {**async_handlers(sold_out), "uu:Look": abort, "uu:Gaze": abort_plain}
    async with served(behaviors, error_handlers=[never]) as (_, stub):
        with pytest.raises(OutOfStockFault):
            await call_aio(stub, "UU")
        for method in ("Look", "Gaze"):
            with pytest.raises(relayrpc.aio.RpcError, match="no such thing"):
                await stub.unary_unary(method)(b"x")


async def test_error_handlers_are_asked_about_one_way_calls() -> None:
    asked = asyncio.Event()

    def note(error: Exception, context: Any) -> None:
        assert isinstance(error, KeyError)
        asked.set()

    async with served(async_handlers(raise_key_error), error_handlers=[note]) as (_, stub):
        await stub.unary_unary("UU")(b"x", metadata=(("relay-confirm", "hub"),))
        await asked.wait()


async def test_error_handlers_are_asked_though_the_call_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where a handler's cleanup fails when its caller has cancelled; nothing can be answered."""
    started, asked = asyncio.Event(), asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError("A7") from None
        return b""

    def note(error: Exception, context: Any) -> Any:
        assert context.done()
        asked.set()
        return sold_out()

    async with served({"uu:UU": handler}, error_handlers=[note]) as (_, stub):
        call = stub.unary_unary("UU")(b"x")
        await started.wait()
        call.cancel()
        await asked.wait()
    assert any("after the call's end" in record.getMessage() for record in caplog.records)


async def test_error_handlers_are_asked_about_undeclared_faults() -> None:
    def declare(error: Exception, context: Any) -> Any:
        assert isinstance(error, QuotaFault)
        return sold_out()

    async with served(async_handlers(over_quota), error_handlers=[declare]) as (_, stub):
        with pytest.raises(OutOfStockFault):
            await call_aio(stub, "UU")


async def test_error_handler_that_fails_leaves_the_others_their_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(error: Exception, context: Any) -> None:
        raise ZeroDivisionError("mine")

    def nonsense(error: Exception, context: Any) -> Any:
        return 7

    def undeclared(error: Exception, context: Any) -> Any:
        return over_quota()

    def translate(error: Exception, context: Any) -> Any:
        return sold_out()

    options = {"error_handlers": [fail, nonsense, undeclared, translate]}
    async with served(async_handlers(raise_key_error), **options) as (_, stub):
        with pytest.raises(OutOfStockFault):
            await call_aio(stub, "UU")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told[0] == f"an error handler failed, for a call of /{SERVICE}/UU"
    assert told[1].endswith("7 is no relayrpc.Fault, grpc.Status or None")
    assert "does not declare the fault google.rpc.QuotaFailure" in told[2]
    assert len(told) == 3


async def test_exception_that_no_error_handler_answers_is_as_without_them() -> None:
    async with served(
        async_handlers(raise_key_error), error_handlers=[lambda error, context: None]
    ) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError, match="the handler failed, incident") as caught:
            await call_aio(stub, "UU")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN


async def test_error_handler_of_a_plain_handler_may_abort() -> None:
    def abort(error: Exception, context: Any) -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    async with served(plain_handlers(raise_key_error), error_handlers=[abort]) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError, match="no such thing"):
            await call_aio(stub, "UU")


async def test_error_handler_that_ends_the_process_does_not_leave_the_call_open() -> None:
    def leave(error: Exception, context: Any) -> None:
        raise SystemExit

    async with served(plain_handlers(raise_key_error), error_handlers=[leave]) as (_, stub):
        with pytest.raises(relayrpc.aio.RpcError, match="the host is being stopped"):
            await call_aio(stub, "UU")


def test_error_handler_that_is_none_or_async_is_refused() -> None:
    async def late(error: Exception, context: Any) -> None:
        pass

    for wrong in (7, late):
        with pytest.raises(relayrpc.errors.ConfigError, match="is no plain function"):
            relayrpc.aio.server("relay://127.0.0.1:1/a", error_handlers=[wrong])
