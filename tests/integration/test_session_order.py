"""
Goal: the handlers of a session's calls begin in the order in which the calls were made, whatever
each of them has to wait for, and run side by side once they have begun; a call that waits for those
before it and is over leaves its place.

Method: hosts and callers over a real hub on loopback. Something holds the first call up, others
come behind it, and handlers of every kind record when they begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.endpoint.context import Context, current_call
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.deadlines import DEADLINES_S
from tests.support.relay import Stub, make_handlers, running_relay
from tests.support.until import until


pytestmark = pytest.mark.integration

KINDS = [
    "undecorated",
    "plain",
    *(
        f"{mode} {concurrency}"
        for mode in ("per_call", "per_session", "single")
        for concurrency in ("single", "reentrant", "multiple")
    ),
]
LARGE = bytes(3_000_000)


class Servicer:
    """Records the first byte of each request; `Meet` waits until others have begun."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.met = asyncio.Event()

    async def Add(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request[:1])
        await asyncio.sleep(0)
        return request[:1]

    def Plain(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request[:1])
        return request[:1]

    async def Repeat(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.begun.append(request[:1])
        yield request[:1]

    async def Collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.begun.append(b"c")
        return b"%d" % len([request async for request in requests])

    async def Meet(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request[:1])
        if request[:1] == b"3":
            self.met.set()
        await self.met.wait()
        return request[:1]


METHODS = ("uu:Add", "uu:Plain", "us:Repeat", "su:Collect", "uu:Meet")


def registering(servicer: Any) -> Callable[[relayrpc.aio.Server], None]:
    def register(server: relayrpc.aio.Server) -> None:
        methods = {name: getattr(servicer, name[3:]) for name in METHODS}
        server.add_registered_method_handlers("test.Service", make_handlers(methods))

    return register


@contextlib.asynccontextmanager
async def holding_session(
    kind: str,
    *,
    factory: Callable[[Any], Any] = lambda make: make(),
    throttle: relayrpc.Throttle | None = None,
    limits: Any = DEFAULT_LIMITS,
    **options: Any,
) -> AsyncIterator[tuple[list[bytes], Stub, str]]:
    """Hold a session with a host of a kind: what began, the stub, and the name of a method."""
    servicer: Any = Servicer()
    begun = servicer.begun
    if kind not in ("undecorated", "plain"):
        instances, concurrency = kind.split()
        cls: Any = relayrpc.service(instances=instances, concurrency=concurrency)(  # type: ignore[arg-type]
            type("Recording", (Servicer,), {})
        )

        def make() -> Any:
            made = cls()
            made.begun = begun
            return made

        servicer = relayrpc.servicer(cls, factory=lambda: factory(make), throttle=throttle)
    async with (
        running_relay(
            register=registering(servicer), server_options={"limits": limits, **options}
        ) as relay,
        relay.channel.session() as session,
    ):
        yield begun, Stub(session), "Plain" if kind == "plain" else "Add"


class HoldsUp(grpc.aio.ServerInterceptor):
    """
    Awaits at the call whose metadata says so, before it or in a function around the handler: until
    so many calls have come, or the test goes on.
    """

    def __init__(self, where: str, count: int = 4) -> None:
        self._where = where
        self._count = count
        self.contexts: list[Context] = []
        self.go_on = asyncio.Event()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        context = current_call.get()
        assert context is not None
        self.contexts.append(context)
        if len(self.contexts) == self._count:
            self.go_on.set()
        is_held_up = ("held-up", "1") in details.invocation_metadata
        if ("refused", "1") in details.invocation_metadata:
            await self.go_on.wait()
            raise ValueError("refused")
        if is_held_up and self._where == "before":
            await self.go_on.wait()
        handler = await continuation(details)
        if handler is None or self._where == "before" or handler.request_streaming:
            return handler

        if handler.response_streaming:

            async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
                if is_held_up:
                    await self.go_on.wait()
                async for response in handler.unary_stream(request, context):
                    yield response

            return grpc.unary_stream_rpc_method_handler(stream)

        async def call(request: bytes, context: Any) -> bytes:
            if is_held_up:
                await self.go_on.wait()
            reply = handler.unary_unary(request, context)
            return reply if isinstance(reply, bytes) else await reply  # type: ignore[no-any-return]

        return grpc.unary_unary_rpc_method_handler(call)


HELD_UP = (("held-up", "1"),)
REFUSED = (("refused", "1"),)


async def call_four(call: Any, *, first: bytes = b"0", metadata: Any = ()) -> None:
    calls = [call(first, metadata=metadata), *(call(b"%d" % number) for number in (1, 2, 3))]
    assert await asyncio.gather(*calls) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("where", ["before", "around"])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_interceptor_that_holds_the_first_call_up(kind: str, where: str) -> None:
    async with holding_session(kind, interceptors=[HoldsUp(where)]) as (begun, stub, name):
        await call_four(stub.unary_unary(name), metadata=HELD_UP)
        assert begun == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_large_request_before_small_ones(kind: str) -> None:
    async with holding_session(kind) as (begun, stub, name):
        await stub.unary_unary(name)(b"-")
        await call_four(stub.unary_unary(name), first=b"0" + LARGE)
        assert begun == [b"-", b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if " " in kind])
async def test_a_factory_that_takes_its_time(kind: str) -> None:
    come = HoldsUp("nowhere")

    async def factory(make: Callable[[], Any]) -> Any:
        await come.go_on.wait()
        for _ in range(next(turns)):
            await asyncio.sleep(0)
        return make()

    turns = iter((30, 20, 10, 0))
    async with holding_session(kind, factory=factory, interceptors=[come]) as (begun, stub, name):
        await call_four(stub.unary_unary(name))
        assert begun == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("where", ["before", "around"])
async def test_a_throttle_behind_an_interceptor(where: str) -> None:
    """A later call that had the throttle's one place would wait for an earlier one without."""
    throttle = relayrpc.Throttle(calls=1)
    async with holding_session(
        "per_session multiple", throttle=throttle, interceptors=[HoldsUp(where)]
    ) as (begun, stub, name):
        await call_four(stub.unary_unary(name), metadata=HELD_UP)
        assert begun == [b"0", b"1", b"2", b"3"]


async def test_handlers_of_every_shape_behind_one_that_is_held_up() -> None:
    async with holding_session("undecorated", interceptors=[HoldsUp("before")]) as (begun, stub, _):
        calls: list[Any] = [stub.unary_unary("Add")(b"0", metadata=HELD_UP)]
        stream = stub.unary_stream("Repeat")(b"1")
        collecting = stub.stream_unary("Collect")()
        await collecting.write(b"x")
        calls += [stub.unary_unary("Plain")(b"2"), stub.unary_unary("Add")(b"3")]
        assert await asyncio.gather(*calls) == [b"0", b"2", b"3"]
        # The requests of a stream need not be there.
        assert begun == [b"0", b"1", b"c", b"2", b"3"]
        assert [each async for each in stream] == [b"1"]
        await collecting.done_writing()
        assert await collecting == b"1"


async def test_a_stream_of_responses_behind_a_large_request() -> None:
    holds_up = HoldsUp("around", count=2)
    async with holding_session("undecorated", interceptors=[holds_up]) as (begun, stub, _):
        first = stub.unary_stream("Repeat")(b"0" + LARGE, metadata=HELD_UP)
        await stub.unary_unary("Add")(b"1")
        assert [each async for each in first] == [b"0"]
        assert begun == [b"0", b"1"]


@pytest.mark.parametrize("where", ["", "before", "around"])
@pytest.mark.parametrize("kind", ["undecorated", "per_session multiple", "per_call multiple"])
async def test_handlers_that_have_begun_run_side_by_side(kind: str, where: str) -> None:
    """The first ones return when the last one has begun."""
    interceptors = [HoldsUp(where)] if where else []
    async with holding_session(kind, interceptors=interceptors) as (begun, stub, _):
        if kind == "per_call multiple":
            # Each object has an event of its own.
            await call_four(stub.unary_unary("Add"))
        else:
            await call_four(stub.unary_unary("Meet"))
        assert begun == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("others", ["Plain", "Add"])
async def test_plain_handlers_begin_in_order_on_threads(others: str) -> None:
    async with holding_session("undecorated") as (begun, stub, _):
        first, second = stub.unary_unary("Plain"), stub.unary_unary(others)
        requests = [b"%c" % number for number in range(200)]
        calls = [(second if request[0] % 2 else first)(request) for request in requests]
        assert await asyncio.gather(*calls) == requests
        assert begun == requests


async def test_a_plain_handler_is_waited_for_while_no_thread_is_free() -> None:
    limits = replace(DEFAULT_LIMITS, handler_threads_max=1)
    go_on, running = threading.Event(), threading.Event()
    begun = []

    def wait(request: bytes, context: Any) -> bytes:
        begun.append(request)
        running.set()
        go_on.wait()
        return request

    async def add(request: bytes, context: Any) -> bytes:
        begun.append(request)
        return request

    async with (
        running_relay({"uu:Wait": wait, "uu:Add": add}, server_options={"limits": limits}) as relay,
        relay.channel.session() as session,
    ):
        stub = Stub(session)
        calls = [stub.unary_unary("Wait")(b"0"), stub.unary_unary("Add")(b"1")]
        # The first one runs, and the second need not wait for more.
        assert await calls[1] == b"1"
        calls += [stub.unary_unary("Wait")(b"2"), stub.unary_unary("Add")(b"3")]
        waiting = asyncio.gather(*calls)
        await asyncio.wait((waiting,), timeout=0.05)
        assert begun == [b"0", b"1"]
        go_on.set()
        await waiting
        assert begun == [b"0", b"1", b"2", b"3"]


# --- calls that are over before they have begun ---


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_waits_for_its_place_and_is_over_leaves_it(kind: str) -> None:
    for timeout_s in DEADLINES_S:
        if await _leave_places(kind, timeout_s):
            return
    raise AssertionError("no call that waited was ever late")


async def _leave_places(kind: str, timeout_s: float) -> bool:
    """One call is cancelled and one late; False: that one was so before its host had it."""
    holds_up = HoldsUp("before", count=5)
    async with holding_session(kind, interceptors=[holds_up]) as (begun, stub, name):
        call = stub.unary_unary(name)
        first = call(b"0", metadata=HELD_UP)
        cancelled = call(b"1")
        late = call(b"2", timeout=timeout_s)
        last = call(b"3")
        await until(lambda: len(holds_up.contexts) == 4 or late.done())
        if len(holds_up.contexts) < 4:
            holds_up.go_on.set()
            return False
        cancelled.cancel()
        await until(lambda: [each.done() for each in holds_up.contexts].count(True) == 2)
        holds_up.go_on.set()
        assert await asyncio.gather(first, last) == [b"0", b"3"]
        assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert begun == [b"0", b"3"]
    return True


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_over_before_it_has_begun_holds_nobody_up(kind: str) -> None:
    async with holding_session(kind) as (begun, stub, name):
        call = stub.unary_unary(name)
        await call(b"-")
        first = call(b"0" + LARGE * 10)
        second = call(b"1")
        first.cancel()
        assert await second == b"1"
        assert begun == [b"-", b"1"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_refused_gives_its_place_on(kind: str) -> None:
    limits = replace(DEFAULT_LIMITS, message_bytes_max=1_000_000)
    async with holding_session(kind, limits=limits, interceptors=[HoldsUp("before")]) as (
        begun,
        stub,
        name,
    ):
        call = stub.unary_unary(name)
        refused = [
            call(b"0", metadata=REFUSED),
            stub.unary_unary("Nothing")(b"1", metadata=HELD_UP),
            call(b"2" + LARGE),
            stub.stream_stream(name)(),
        ]
        last = call(b"3")
        await refused[-1].done_writing()
        assert await last == b"3"
        codes = [await each.code() for each in refused]
        assert codes == [
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.UNIMPLEMENTED,
        ]
        assert begun == [b"3"]


async def test_a_call_that_a_throttle_rejects_gives_its_place_on() -> None:
    throttle = relayrpc.Throttle(calls=1, on_full="reject")
    async with holding_session("per_session multiple", throttle=throttle) as (begun, stub, _):
        collecting = stub.stream_unary("Collect")()
        await collecting.write(b"x")
        await until(lambda: begun == [b"c"])
        rejected = stub.unary_unary("Add")(b"1")
        assert await rejected.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await collecting.done_writing()
        assert await collecting == b"1"
        assert await stub.unary_unary("Add")(b"2") == b"2"
        assert begun == [b"c", b"2"]


async def test_one_way_calls_keep_the_order_too() -> None:
    async with holding_session("undecorated") as (begun, stub, _):
        add = stub.unary_unary("Add")
        await add(b"-")
        one_way = [add(b"0" + LARGE, metadata=(("relay-confirm", "hub"),))]
        one_way.append(add(b"1", metadata=(("relay-confirm", "hub"),)))
        assert await add(b"2") == b"2"
        assert begun == [b"-", b"0", b"1", b"2"]
        await asyncio.gather(*one_way)


async def test_a_large_request_is_received_while_it_waits() -> None:
    """What is behind a call that is held up takes no more credit than any, and is not held up."""
    holds_up = HoldsUp("before", count=5)
    async with holding_session("undecorated", interceptors=[holds_up]) as (begun, stub, _):
        add = stub.unary_unary("Add")
        calls = [add(b"0", metadata=HELD_UP), *(add(b"%d" % each + LARGE) for each in (1, 2, 3))]
        await until(lambda: len(holds_up.contexts) == 4)
        await until(lambda: all(each.has_whole_request for each in holds_up.contexts))
        assert begun == []
        holds_up.go_on.set()
        await asyncio.gather(*calls)
        assert begun == [b"0", b"1", b"2", b"3"]


async def test_stopping_ends_calls_that_wait_for_their_place() -> None:
    begun = []

    async def add(request: bytes, context: Any) -> bytes:
        begun.append(request)
        return request

    holds_up = HoldsUp("before")
    options = {"interceptors": [holds_up]}
    async with running_relay({"uu:Add": add}, server_options=options) as relay:
        session = relay.channel.session()
        call = Stub(session).unary_unary("Add")
        calls = [call(b"0", metadata=HELD_UP), call(b"1"), call(b"2")]
        await until(lambda: len(holds_up.contexts) == 3)
        await relay.server.stop(0.1)
        for each in calls:
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await each
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not caught.value.may_have_executed
        assert begun == []
        await session.close()
