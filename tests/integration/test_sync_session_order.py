"""
Goal: plain handlers of a session's calls begin in the order in which the calls were made, whatever
holds one of them up, on a blocking server and on an async one; no thread waits for another call.

Method: a hub on a thread of its own, blocking callers, and hosts of both kinds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider

import relayrpc
from relayrpc.endpoint.context import Context, current_call
from tests.support.blocking import HubThread, hosting
from tests.support.deadlines import DEADLINES_S
from tests.support.relay import Stub, make_handlers
from tests.support.until import until


pytestmark = pytest.mark.integration

KINDS = pytest.mark.parametrize("kind", ["blocking", "async"])
CLASSES = [
    "undecorated",
    *(
        f"{mode} {concurrency}"
        for mode in ("per_call", "per_session", "single")
        for concurrency in ("single", "reentrant", "multiple")
    ),
]
HELD_UP = (("held-up", "1"),)
LARGE = bytes(3_000_000)


class Servicer:
    """Records the first byte of each request; `Meet` waits until others have begun."""

    def __init__(self, begun: list[bytes]) -> None:
        self.begun = begun
        self.met = threading.Event()

    def Add(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request[:1])
        return request[:1]

    def Repeat(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.begun.append(request[:1])
        yield request[:1]

    def Collect(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.begun.append(b"c")
        return b"%d" % len(list(requests))

    def Meet(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request[:1])
        if request[:1] == b"3":
            self.met.set()
        assert self.met.wait(20)
        return request[:1]


METHODS = ("uu:Add", "us:Repeat", "su:Collect", "uu:Meet")


class HoldsUp(grpc.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """
    Blocks at the call whose metadata says so, before it or in a function around the handler: until
    so many calls have come, or the test goes on.
    """

    def __init__(self, where: str, count: int = 4) -> None:
        self._where = where
        self._count = count
        self.contexts: list[Context] = []
        self.go_on = threading.Event()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.come()
        is_held_up = ("held-up", "1") in details.invocation_metadata
        if is_held_up and self._where == "before":
            self.go_on.wait()
        if ("refused", "1") in details.invocation_metadata:
            self.go_on.wait()
            raise ValueError("refused")
        return self.change(continuation(details), is_held_up=is_held_up)

    def come(self) -> None:
        context = current_call.get()
        assert context is not None
        self.contexts.append(context)
        if len(self.contexts) >= self._count:
            self.go_on.set()

    def change(self, handler: Any, *, is_held_up: bool) -> Any:
        if handler is None or self._where == "before" or not handler.unary_unary:
            return handler

        def call(request: bytes, context: Any) -> bytes:
            if is_held_up:
                self.go_on.wait()
            return handler.unary_unary(request, context)  # type: ignore[no-any-return]

        return grpc.unary_unary_rpc_method_handler(call)


class HoldsUpAsync(HoldsUp, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.come()
        is_held_up = ("held-up", "1") in details.invocation_metadata
        if is_held_up and self._where == "before":
            await until(self.go_on.is_set)
        return self.change(await continuation(details), is_held_up=is_held_up)


def holds_up(kind: str, where: str) -> list[Any]:
    if where == "nowhere":
        return []
    return [HoldsUp(where) if kind == "blocking" else HoldsUpAsync(where)]


@contextlib.contextmanager
def holding_session(
    hub: HubThread,
    kind: str,
    of_class: str = "undecorated",
    *,
    factory: Callable[[], Any] | None = None,
    **options: Any,
) -> Iterator[tuple[list[bytes], Stub]]:
    begun: list[bytes] = []
    servicer: Any = Servicer(begun)
    if of_class != "undecorated":
        instances, concurrency = of_class.split()
        cls: Any = relayrpc.service(instances=instances, concurrency=concurrency)(  # type: ignore[arg-type]
            type("Recording", (Servicer,), {})
        )

        def make() -> Any:
            if factory is not None:
                factory()
            return cls(begun)

        servicer = relayrpc.servicer(cls, factory=make)

    def register(server: Any) -> None:
        methods = {name: getattr(servicer, name[3:]) for name in METHODS}
        server.add_registered_method_handlers("test.Service", make_handlers(methods))

    with (
        hosting(hub, kind, register, **options),
        relayrpc.channel(hub.url()) as channel,
        channel.session() as session,
    ):
        yield begun, Stub(session)


def call_four(call: Any, *, first: bytes = b"0", metadata: Any = ()) -> None:
    calls = [call.future(first, metadata=metadata)]
    calls += [call.future(b"%d" % number) for number in (1, 2, 3)]
    assert [each.result(30) for each in calls] == [b"0", b"1", b"2", b"3"]


@KINDS
@pytest.mark.parametrize("where", ["before", "around"])
@pytest.mark.parametrize("of_class", CLASSES)
def test_an_interceptor_that_holds_the_first_call_up(
    relay_hub: HubThread, kind: str, of_class: str, where: str
) -> None:
    interceptors = holds_up(kind, where)
    with holding_session(relay_hub, kind, of_class, interceptors=interceptors) as (begun, stub):
        call_four(stub.unary_unary("Add"), metadata=HELD_UP)
        assert begun == [b"0", b"1", b"2", b"3"]


@KINDS
@pytest.mark.parametrize("where", ["nowhere", "before"])
@pytest.mark.parametrize("of_class", CLASSES)
def test_a_large_request_before_small_ones(
    relay_hub: HubThread, kind: str, of_class: str, where: str
) -> None:
    interceptors = holds_up(kind, where)
    with holding_session(relay_hub, kind, of_class, interceptors=interceptors) as (begun, stub):
        call = stub.unary_unary("Add")
        call(b"-")
        call_four(call, first=b"0" + LARGE)
        assert begun == [b"-", b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("of_class", CLASSES[1:])
def test_a_factory_that_takes_its_time(relay_hub: HubThread, of_class: str) -> None:
    come = HoldsUp("nowhere")
    with holding_session(
        relay_hub, "blocking", of_class, factory=come.go_on.wait, interceptors=[come]
    ) as (begun, stub):
        call_four(stub.unary_unary("Add"))
        assert begun == [b"0", b"1", b"2", b"3"]


@KINDS
@pytest.mark.parametrize("where", ["nowhere", "before", "around"])
@pytest.mark.parametrize("of_class", ["undecorated", "per_session multiple"])
def test_handlers_begin_in_order_and_run_side_by_side(
    relay_hub: HubThread, kind: str, of_class: str, where: str
) -> None:
    interceptors = holds_up(kind, where)
    with holding_session(relay_hub, kind, of_class, interceptors=interceptors) as (begun, stub):
        requests = [b"%c" % number for number in range(100)]
        calls = [stub.unary_unary("Add").future(request) for request in requests]
        assert [each.result(30) for each in calls] == requests
        assert begun == requests
        call_four(stub.unary_unary("Meet"))
        assert begun[100:] == [b"0", b"1", b"2", b"3"]


def test_handlers_of_every_shape_behind_one_that_is_held_up(relay_hub: HubThread) -> None:
    with holding_session(relay_hub, "blocking", interceptors=[HoldsUp("before")]) as (begun, stub):
        first = stub.unary_unary("Add").future(b"0", metadata=HELD_UP)
        stream = stub.unary_stream("Repeat")(b"1")
        collecting = stub.stream_unary("Collect").future(iter([b"x"]))
        last = stub.unary_unary("Add").future(b"3")
        assert (first.result(30), last.result(30)) == (b"0", b"3")
        assert begun == [b"0", b"1", b"c", b"3"]
        assert (list(stream), collecting.result(30)) == ([b"1"], b"1")


def test_calls_that_wait_for_their_place_take_no_threads(relay_hub: HubThread) -> None:
    """Two threads: one has the interceptor that holds the first call up."""
    holds_up = HoldsUp("before", count=13)
    with (
        ThreadPoolExecutor(2) as pool,
        holding_session(
            relay_hub, "blocking", interceptors=[holds_up], thread_pool=pool
        ) as (begun, stub),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        add = stub.unary_unary("Add")
        calls = [add.future(b"0", metadata=HELD_UP), *(add.future(b"1") for _ in range(10))]
        relay_hub.run(until(lambda: len(holds_up.contexts) == 11))
        assert Stub(channel).unary_unary("Add")(b"e", timeout=20) == b"e"
        holds_up.go_on.set()
        assert [each.result(30) for each in calls] == [b"0", *[b"1"] * 10]
        assert begun == [b"e", b"0", *[b"1"] * 10]


@pytest.mark.parametrize("of_class", ["undecorated", "per_session multiple"])
def test_with_spans_the_order_is_the_same(
    relay_hub: HubThread, of_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    holds_up = HoldsUp("before", count=5)
    with holding_session(
        relay_hub, "blocking", of_class, interceptors=[holds_up]
    ) as (begun, stub):
        add = stub.unary_unary("Add")
        calls = [add.future(b"0", metadata=HELD_UP)]
        calls += [add.future(b"%d" % number) for number in (1, 2, 3)]
        relay_hub.run(until(lambda: len(holds_up.contexts) == 4))
        calls[1].cancel()
        relay_hub.run(until(lambda: any(each.done() for each in holds_up.contexts)))
        holds_up.go_on.set()
        assert [each.result(30) for each in (calls[0], *calls[2:])] == [b"0", b"2", b"3"]
        assert begun == [b"0", b"2", b"3"]
    provider.shutdown()


@pytest.mark.parametrize("of_class", ["undecorated", "per_session single"])
def test_a_call_that_is_over_before_it_has_begun_leaves_its_place(
    relay_hub: HubThread, of_class: str
) -> None:
    for timeout_s in DEADLINES_S:
        if _leave_places(relay_hub, of_class, timeout_s):
            return
    raise AssertionError("no call that waited was ever late")


def _leave_places(relay_hub: HubThread, of_class: str, timeout_s: float) -> bool:
    """One of the calls is late; False: it was so before its host had it."""
    holds_up = HoldsUp("before", count=7)
    with holding_session(
        relay_hub, "blocking", of_class, interceptors=[holds_up]
    ) as (begun, stub):
        add = stub.unary_unary("Add")
        first = add.future(b"0", metadata=HELD_UP)
        cancelled = add.future(b"1")
        late = add.future(b"2", timeout=timeout_s)
        refused = add.future(b"4", metadata=(("refused", "1"),))
        unknown = stub.unary_unary("Nothing").future(b"5", metadata=HELD_UP)
        last = add.future(b"3")
        relay_hub.run(until(lambda: len(holds_up.contexts) == 6 or late.done()))
        if len(holds_up.contexts) < 6:
            holds_up.go_on.set()
            return False
        cancelled.cancel()
        relay_hub.run(until(lambda: sorted(each.done() for each in holds_up.contexts)[-2]))
        holds_up.go_on.set()
        assert (first.result(30), last.result(30)) == (b"0", b"3")
        codes = [each.code() for each in (cancelled, late, refused, unknown)]
        assert codes == [
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.UNIMPLEMENTED,
        ]
        assert begun == [b"0", b"3"]
    return True
