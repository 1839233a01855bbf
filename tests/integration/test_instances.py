"""
Goal: which object serves a call, how many handlers it has at once, and when it is made and closed,
as `@relayrpc.service` says; every mode, with and without sessions, async and plain.

Method: hosts and callers over a real hub on loopback; handlers that record when they begin and end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import relayrpc
import relayrpc.aio
from relayrpc.errors import ConfigError, ConnectError, UsageError
from relayrpc.limits import DEFAULT_LIMITS
from samples.greeter import greeter_pb2_grpc
from samples.orders import orders_relay
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub
from tests.support.scraping import scrape
from tests.support.until import until


if TYPE_CHECKING:
    from relayrpc.hub.server import Hub


pytestmark = pytest.mark.integration

MODES = ["per_call", "per_session", "single"]


class Recorder:
    """What happened to the objects of one test."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0
        self.running = 0
        self.most_running = 0
        self.go_on = asyncio.Event()


class Servicer:
    """Numbered objects, which say their number; `Wait` until the test goes on."""

    def __init__(self, recorder: Recorder) -> None:
        recorder.made += 1
        self.number = recorder.made
        self._recorder = recorder

    async def Number(self, request: bytes, context: Any) -> bytes:
        return b"%d" % self.number

    async def Numbers(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(int(request)):
            yield b"%d" % self.number

    def Plain(self, request: bytes, context: Any) -> bytes:
        return b"%d %s" % (self.number, threading.current_thread().name[:8].encode())

    async def Wait(self, request: bytes, context: Any) -> bytes:
        recorder = self._recorder
        recorder.running += 1
        recorder.most_running = max(recorder.most_running, recorder.running)
        try:
            await recorder.go_on.wait()
        finally:
            recorder.running -= 1
        return request

    async def Call(self, request: bytes, context: Any) -> bytes:
        """Have the caller called back, to a depth."""
        depth = int(request)
        if not depth:
            return b"%d" % self.number
        reply = await events(context.caller()).unary_unary("Tell")(b"%d" % (depth - 1))
        return b"%d>" % self.number + reply

    async def close(self) -> None:
        self._recorder.closed += 1


def events(channel: Any) -> Stub:
    return Stub(channel, "test.Events")


def add_servicer(servicer: Any, server: grpc.aio.Server) -> None:
    names = ("Number", "Plain", "Wait", "Call")
    methods = {f"uu:{name}": getattr(servicer, name) for name in names}
    methods["us:Numbers"] = servicer.Numbers
    server.add_registered_method_handlers("test.Service", make_handlers(methods))


def make_servicer(
    recorder: Recorder, instances: Any, concurrency: Any = "multiple", **options: Any
) -> Any:
    cls = relayrpc.service(instances=instances, concurrency=concurrency)(
        type("Counted", (Servicer,), {})
    )
    options.setdefault("factory", lambda: cls(recorder))
    return relayrpc.servicer(cls, **options)


async def start_host(url: str, servicer: Any) -> relayrpc.aio.Server:
    server = relayrpc.aio.server(f"{url}/{ADDRESS}")
    add_servicer(servicer, server)
    await server.start()
    return server


@pytest.mark.parametrize(
    ("mode", "outside", "inside"),
    [
        ("per_call", [b"1", b"2"], [b"3", b"4", b"5", b"6"]),
        ("per_session", [b"1", b"2"], [b"3", b"3", b"4", b"4"]),
        ("single", [b"1", b"1"], [b"1", b"1", b"1", b"1"]),
    ],
)
async def test_which_object_serves(mode: str, outside: list[bytes], inside: list[bytes]) -> None:
    recorder = Recorder()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, mode))
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            number = Stub(channel).unary_unary("Number")
            assert [await number(b"") for _ in range(2)] == outside
            numbers = []
            for _ in range(2):
                async with channel.session() as session:
                    number = Stub(session).unary_unary("Number")
                    numbers += [await number(b"") for _ in range(2)]
            assert numbers == inside
            if mode != "single":
                await until(lambda: recorder.closed == recorder.made)
        await server.stop(0)
    assert recorder.closed == recorder.made


async def test_a_plain_handler_is_the_objects_too() -> None:
    recorder = Recorder()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, "per_session", "single"))
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            channel.session() as session,
        ):
            plain = Stub(session).unary_unary("Plain")
            replies = await asyncio.gather(*(plain(b"") for _ in range(5)))
        assert set(replies) == {b"1 relayrpc"}
        await server.stop(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("concurrency", "in_one_session"), [("single", 1), ("reentrant", 1), ("multiple", 4)]
)
async def test_how_many_at_once(mode: str, concurrency: str, in_one_session: int) -> None:
    """In one session; in several the objects are apart, but for a single one."""
    recorder = Recorder()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, mode, concurrency))
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            sessions = [channel.session() for _ in range(2)]
            calls = [
                Stub(session).unary_unary("Wait")(b"") for session in sessions for _ in range(4)
            ]
            expected = in_one_session * (1 if mode == "single" and in_one_session == 1 else 2)
            await until(lambda: recorder.running == expected)
            # All that were sent have come, and wait for their turn.
            await Stub(channel).unary_unary("Number")(b"") if mode != "single" else None
            assert recorder.running == expected
            recorder.go_on.set()
            await asyncio.gather(*calls)
            for session in sessions:
                await session.close()
        assert recorder.most_running == expected
        await server.stop(0)


class Listener:
    """Calls the host again when it is called back, through its own session or channel."""

    def __init__(self) -> None:
        self.channel: Any = None

    async def tell(self, request: bytes, context: Any) -> bytes:
        return await Stub(self.channel).unary_unary("Call")(request)


def add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    server.add_registered_method_handlers(
        "test.Events", make_handlers({"uu:Tell": listener.tell})
    )


@pytest.mark.parametrize("mode", ["per_session", "single"])
@pytest.mark.parametrize("concurrency", ["reentrant", "multiple"])
async def test_nested_calls(mode: str, concurrency: str) -> None:
    """The same object: A, callback, A, callback, A."""
    recorder, listener = Recorder(), Listener()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, mode, concurrency))
        callbacks = [(add_listener, listener)]
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=callbacks) as channel,
            channel.session() as session,
        ):
            listener.channel = session
            call = Stub(session).unary_unary("Call")
            replies = await asyncio.gather(*(call(b"2", timeout=20) for _ in range(5)))
        assert set(replies) == {b"1>1>1"}
        await server.stop(0)


@pytest.mark.parametrize("in_session", [False, True])
@pytest.mark.parametrize("concurrency", ["reentrant", "multiple"])
async def test_nested_calls_that_have_an_object_each(concurrency: str, in_session: bool) -> None:
    """A, callback, B, callback, C: in a session they take turns, though each has its own."""
    recorder, listener = Recorder(), Listener()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, "per_call", concurrency))
        callbacks = [(add_listener, listener)]
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=callbacks) as channel:
            session = channel.session() if in_session else None
            listener.channel = session or channel
            call = Stub(session or channel).unary_unary("Call")
            replies = await asyncio.gather(*(call(b"2", timeout=20) for _ in range(5)))
            numbers = [number for reply in replies for number in reply.split(b">")]
            assert sorted(map(int, numbers)) == list(range(1, 16))
            if session is not None:
                await session.close()
        await until(lambda: recorder.closed == 15)
        await server.stop(0)


async def test_reentrant_across_sessions() -> None:
    """Callers of one object, each called back, and calling again, while others wait."""
    recorder = Recorder()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        # What waits on a callback counts as a call: those within it need places too.
        throttle = relayrpc.Throttle(calls=100)
        servicer = make_servicer(recorder, "single", "reentrant", throttle=throttle)
        server = await start_host(url, servicer)
        channels, sessions = [], []
        for _ in range(4):
            listener = Listener()
            channel = relayrpc.aio.channel(
                f"{url}/{ADDRESS}", callbacks=[(add_listener, listener)]
            )
            listener.channel = channel.session()
            channels.append(channel)
            sessions.append(listener.channel)
        replies = await asyncio.gather(
            *(
                Stub(session).unary_unary("Call")(b"3", timeout=20)
                for session in sessions
                for _ in range(3)
            )
        )
        assert set(replies) == {b"1>1>1>1"}
        for channel in channels:
            await channel.close()
        await server.stop(0)


@pytest.mark.parametrize("mode", MODES)
async def test_a_deadlock_is_told_at_once(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    recorder, listener = Recorder(), Listener()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, mode, "single"))
        callbacks = [(add_listener, listener)]
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=callbacks) as channel,
            channel.session() as session,
        ):
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(session).unary_unary("Call")(b"1")
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert await Stub(session).unary_unary("Call")(b"0") != b""
        await server.stop(0)
    assert "test.Service/Call would deadlock" in caplog.text
    assert "concurrency='reentrant'" in caplog.text


# --- interceptors ---


class Wraps(grpc.aio.ServerInterceptor):
    """Puts functions of its own around the handlers', as metrics and traces are made."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        behavior = handler.unary_unary or handler.unary_stream
        if not handler.response_streaming:

            async def call(request: bytes, context: Any) -> bytes:
                reply: bytes = await behavior(request, context)
                return reply

            return grpc.unary_unary_rpc_method_handler(call)

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for response in behavior(request, context):
                yield response

        return grpc.unary_stream_rpc_method_handler(stream)


@pytest.mark.parametrize("mode", MODES)
async def test_what_interceptors_wrap_has_an_object_and_its_turn(mode: str) -> None:
    recorder, listener = Recorder(), Listener()
    servicer = make_servicer(recorder, mode, "reentrant")
    callbacks = [(add_listener, listener)]
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, interceptors=[Wraps()])
        add_servicer(servicer, server)
        await server.start()
        async with (
            relayrpc.aio.channel(url, callbacks=callbacks) as channel,
            channel.session() as session,
        ):
            listener.channel = session
            stub = Stub(session)
            if mode != "per_call":
                assert await stub.unary_unary("Call")(b"2", timeout=20) == b"1>1>1"
                numbers = [each async for each in stub.unary_stream("Numbers")(b"2")]
                assert numbers == [b"1", b"1"]
            calls = [stub.unary_unary("Wait")(b"") for _ in range(4)]
            await until(lambda: recorder.running)
            recorder.go_on.set()
            await asyncio.gather(*calls)
        assert recorder.most_running == 1
        await server.stop(0)
    assert recorder.closed == recorder.made
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


# --- factories and closing ---


async def test_factories_and_closing_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    attempts = iter(range(10))

    class Fails(Servicer):
        async def __aenter__(self) -> None:
            recorder.running += 1

        async def __aexit__(self, *exc_info: object) -> None:
            recorder.running -= 1
            raise OSError("closing failed")

    async def factory() -> Any:
        if next(attempts) == 0:
            raise ValueError("making failed")
        return Fails(recorder)

    cls = relayrpc.service(instances="per_session", concurrency="single")(Fails)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        servicer = relayrpc.servicer(cls, factory=factory)
        server = await start_host(url, servicer)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            number = Stub(session).unary_unary("Number")
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await number(b"")
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert await number(b"") == b"1"
            assert await number(b"") == b"1"
            assert recorder.running == 1
            await session.close()
            await until(lambda: recorder.running == 0)
            assert await Stub(channel).unary_unary("Number")(b"") == b"2"
        await server.stop(0)
        assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    assert "making failed" in caplog.text
    assert caplog.text.count("OSError: closing failed") == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", [None, 3, object()])
async def test_a_factory_that_makes_something_else(
    mode: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails its call, and is not kept."""
    recorder = Recorder()
    makes = iter([wrong, wrong, Servicer(recorder)])
    servicer = make_servicer(recorder, mode, factory=lambda: next(makes))
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, servicer)
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            channel.session() as session,
        ):
            number = Stub(session).unary_unary("Number")
            for _ in range(2):
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await number(b"")
                assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert await number(b"") == b"1"
        await server.stop(0)
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    kind = type(wrong).__name__
    text = f"the factory of Counted made an object of {kind}, which has no method Call or Number"
    assert caplog.text.count(text) == 2


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_server_that_stops_waits_until_the_objects_of_sessions_are_closed(
    is_running: bool,
) -> None:
    recorder = Recorder()
    may_close = asyncio.Event()

    class Slow(Servicer):
        async def close(self) -> None:
            await may_close.wait()
            await super().close()

    cls = relayrpc.service(instances="per_session", concurrency="multiple")(Slow)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        servicer = relayrpc.servicer(cls, factory=lambda: cls(recorder))
        server = await start_host(url, servicer)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            await Stub(session).unary_unary("Number")(b"")
            if is_running:
                Stub(session).unary_unary("Wait")(b"")
                await until(lambda: recorder.running)
            stopping = asyncio.create_task(server.stop(0))
            # Its caller knows before.
            await until(lambda: session.state is relayrpc.aio.SessionState.FAULTED)
            await asyncio.wait((stopping,), timeout=0.1)
            assert not stopping.done()
            may_close.set()
            await stopping
            assert recorder.closed == 1
        assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


class ClosesNever(Servicer):
    """Closing it ends when the test lets it, or when it is cancelled."""

    async def close(self) -> None:
        self._recorder.closed += 1
        await self._recorder.go_on.wait()


class IsLeftNever(ClosesNever):
    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class IsNotToBeCancelled(ClosesNever):
    async def close(self) -> None:
        self._recorder.closed += 1
        while not self._recorder.go_on.is_set():
            try:
                await self._recorder.go_on.wait()
            except asyncio.CancelledError:
                continue
        raise OSError("nobody is told")


@pytest.mark.parametrize("kind", [ClosesNever, IsLeftNever, IsNotToBeCancelled])
@pytest.mark.parametrize("mode", MODES)
async def test_closing_that_never_ends_is_given_up(
    mode: Any, kind: type[ClosesNever], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    cls = relayrpc.service(instances=mode, concurrency="multiple")(type("Hangs", (kind,), {}))
    limits = replace(DEFAULT_LIMITS, object_close_timeout_s=0.2)
    # Each of the calls needs the one place.
    throttle = relayrpc.Throttle(calls=1, instances=1)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        servicer = relayrpc.servicer(cls, factory=lambda: cls(recorder), throttle=throttle)
        server = relayrpc.aio.server(url, limits=limits)
        add_servicer(servicer, server)
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            for _ in range(2):
                async with channel.session() as session:
                    assert await Stub(session).unary_unary("Number")(b"", timeout=20)
                assert await Stub(channel).unary_unary("Number")(b"", timeout=20)
        await asyncio.wait_for(server.stop(0.1), 20)
    assert recorder.closed == recorder.made == (1 if mode == "single" else 4)
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    text = "closing an object of test.Service, a Hangs, takes more than 0.2 s"
    assert caplog.text.count(text) == recorder.made
    recorder.go_on.set()
    await asyncio.sleep(0)


async def test_a_handler_that_fails_is_told_of_before_its_object_is_closed() -> None:
    recorder = Recorder()

    class Fails(ClosesNever):
        async def fail(self, request: bytes, context: Any) -> bytes:
            raise KeyError(request)

    cls = relayrpc.service(instances="per_call")(Fails)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        servicer = relayrpc.servicer(cls, factory=lambda: cls(recorder))
        handlers = make_handlers({"uu:Fail": servicer.fail})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(channel).unary_unary("Fail")(b"")
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            await until(lambda: recorder.closed)
            assert servicer.throttle.counts["calls"] == 1
            recorder.go_on.set()
            await until(lambda: not servicer.throttle.counts["calls"])
        await server.stop(0)


async def test_a_call_that_waits_for_an_object_deadlocks_no_session_that_has_one() -> None:
    """It holds no place that the session's calls need."""
    recorder = Recorder()
    throttle = relayrpc.Throttle(calls=1, instances=1)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, "per_session", throttle=throttle))
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            async with channel.session() as session:
                assert await Stub(session).unary_unary("Number")(b"") == b"1"
                outside = Stub(channel).unary_unary("Number")(b"")
                await until(lambda: throttle.waiting_counts["instances"] == 1)
                assert await Stub(session).unary_unary("Number")(b"") == b"1"
            assert await outside == b"2"
        await server.stop(0)


async def test_a_session_that_is_over_waits_for_no_object() -> None:
    """It is in nobody's way, and none is made for it."""
    recorder = Recorder()
    throttle = relayrpc.Throttle(instances=1, queue_max=1)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, "per_session", throttle=throttle))
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            first, gone, third = (channel.session() for _ in range(3))
            assert await Stub(first).unary_unary("Number")(b"") == b"1"
            waiting = Stub(gone).unary_unary("Number")(b"")
            await until(lambda: throttle.waiting_counts["instances"] == 1)
            gone.abort()
            assert waiting.cancelled()
            await until(lambda: throttle.counts["sessions"] == 1)
            waiting = Stub(third).unary_unary("Number")(b"")
            await until(lambda: throttle.counts["sessions"] == 2)
            await first.close()
            assert await waiting == b"2"
            await third.close()
        await server.stop(0)
    assert recorder.closed == recorder.made == 2


async def test_a_server_that_stops_waits_for_no_place_for_an_object(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holding, waiting = Recorder(), Recorder()
    throttle = relayrpc.Throttle(instances=1)
    cls = relayrpc.service(instances="per_session")(type("Holds", (ClosesNever,), {}))
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        add_servicer(
            relayrpc.servicer(cls, factory=lambda: cls(holding), throttle=throttle), server
        )
        single = make_servicer(waiting, "single", throttle=throttle)
        handlers = make_handlers({"uu:Number": single.Number})
        server.add_registered_method_handlers("test.Other", handlers)
        await server.start()
        async with relayrpc.aio.channel(url) as channel, channel.session() as session:
            await Stub(session).unary_unary("Number")(b"")
            call = Stub(channel, "test.Other").unary_unary("Number")(b"")
            await until(lambda: throttle.waiting_counts["instances"] == 1)
            stopping = asyncio.create_task(server.stop(0))
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            await until(lambda: throttle.waiting_counts["instances"] == 0)
            holding.go_on.set()
            await stopping
    assert waiting.made == 0
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    assert "takes more than" not in caplog.text


async def test_a_factory_that_failed_for_nobody_is_tried_again_by_the_next_call() -> None:
    recorder, failing = Recorder(), asyncio.Event()

    async def factory() -> Any:
        if not recorder.made:
            recorder.made += 1
            await failing.wait()
            raise asyncio.CancelledError
        return Servicer(recorder)

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        servicer = make_servicer(recorder, "per_session", factory=factory)
        server = await start_host(url, servicer)
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            channel.session() as session,
        ):
            first = Stub(session).unary_unary("Number")(b"")
            await until(lambda: recorder.made)
            first.cancel()
            failing.set()
            await until(lambda: not servicer._of_session)
            assert await Stub(session).unary_unary("Number")(b"") == b"2"
        await server.stop(0)


async def test_stopping_waits_for_an_object_that_is_being_closed() -> None:
    """Its call was answered, and has its places until then."""
    recorder = Recorder()
    cls = relayrpc.service(instances="per_call")(type("Hangs", (ClosesNever,), {}))
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        servicer = relayrpc.servicer(cls, factory=lambda: cls(recorder))
        server = await start_host(url, servicer)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            assert await Stub(channel).unary_unary("Number")(b"") == b"1"
            await until(lambda: recorder.closed)
            stopping = asyncio.create_task(server.stop(0))
            await asyncio.sleep(0)
            assert servicer.throttle.counts == {"calls": 1, "sessions": 0, "instances": 1}
            assert not stopping.done()
            recorder.go_on.set()
            await stopping
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


async def test_making_that_never_ends_is_given_up_when_the_server_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = replace(DEFAULT_LIMITS, object_close_timeout_s=0.1)
    recorder = Recorder()

    async def factory() -> Any:
        recorder.made += 1
        await recorder.go_on.wait()

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, limits=limits)
        servicer = make_servicer(recorder, "single", factory=factory)
        add_servicer(servicer, server)
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            call = Stub(channel).unary_unary("Number")(b"")
            await until(lambda: recorder.made)
            await asyncio.wait_for(server.stop(0), 20)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    assert "making an object of test.Service" in caplog.text


async def test_one_object_that_was_added_as_it_is() -> None:
    """Is the one of `single`; other modes want a class. It is not closed: it is the program's."""
    recorder = Recorder()
    single = relayrpc.service(instances="single", concurrency="single")(
        type("One", (Servicer,), {})
    )
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, single(recorder))
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            calls = [Stub(channel).unary_unary("Wait")(b"") for _ in range(3)]
            await until(lambda: recorder.running == 1)
            recorder.go_on.set()
            await asyncio.gather(*calls)
        assert recorder.most_running == 1
        await server.stop(0)
    assert recorder.closed == 0
    each = relayrpc.service(instances="per_call")(type("Each", (Servicer,), {}))
    with pytest.raises(UsageError, match=r"add relayrpc\.servicer\(Each\)"):
        add_servicer(each(recorder), relayrpc.aio.server("relay://127.0.0.1:1/a"))


@pytest.mark.parametrize("is_decorated", [False, True])
@pytest.mark.parametrize("make_server", [relayrpc.server, relayrpc.aio.server])
def test_a_class_is_not_added_itself(make_server: Any, is_decorated: bool) -> None:
    class Greeter(greeter_pb2_grpc.GreeterServicer):
        def SayHello(self, request: Any, context: Any) -> Any:
            raise AssertionError

    class Orders:
        def Open(self, request: Any, context: Any) -> Any:
            raise AssertionError

        Place = Note = List = Close = Open

    server = make_server("relay://127.0.0.1:1/a")
    for cls, add in (
        (Greeter, greeter_pb2_grpc.add_GreeterServicer_to_server),
        (Orders, orders_relay.add_OrdersServicer_to_server),
    ):
        if is_decorated:
            relayrpc.service()(cls)
        name = cls.__name__
        text = (
            rf"\.{name}/\w+ would be served by {name}\.\w+ without an object: a class was added; "
            rf"add relayrpc\.servicer\({name}\) where .* decorates it, else an object, {name}\(\)$"
        )
        with pytest.raises(UsageError, match=text):
            add(cls, server)
        # Its functions may need none.
        cls.SayHello = cls.Open = staticmethod(lambda request, context: request)
    orders = make_handlers({"uu:Open": Orders.Open, "uu:Hello": Greeter.SayHello})
    server.add_registered_method_handlers("test.Service", orders)


@pytest.mark.parametrize("is_own", [False, True])
async def test_objects_serve_at_one_server_at_a_time(is_own: bool) -> None:
    """Of which several services may have them; when it has stopped, another one may."""
    recorder = Recorder()
    cls = relayrpc.service(instances="single")(type("One", (Servicer,), {}))
    servicer: Any = (
        cls(recorder) if is_own else relayrpc.servicer(cls, factory=lambda: cls(recorder))
    )
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        first, second = (relayrpc.aio.server(f"{url}/{path}") for path in (ADDRESS, "b/test"))
        for server in (first, second):
            add_servicer(servicer, server)
        handlers = make_handlers({"uu:Number": servicer.Number})
        first.add_registered_method_handlers("test.Other", handlers)
        await first.start()
        what = "this One" if is_own else r"relayrpc\.servicer\(One\)"
        with pytest.raises(UsageError, match=rf"^{what} serves at another server, .* one for each"):
            await second.start()
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            for service in ("test.Service", "test.Other"):
                assert await Stub(channel, service).unary_unary("Number")(b"") == b"1"
        await first.stop(0)
        await second.start()
        async with relayrpc.aio.channel(f"{url}/b/test") as channel:
            number = await Stub(channel).unary_unary("Number")(b"")
            assert number == (b"1" if is_own else b"2")
        await second.stop(0)
    assert recorder.closed == (0 if is_own else 2)


async def test_objects_of_a_server_that_could_not_start_serve_at_another_one() -> None:
    servicer = make_servicer(Recorder(), "single")
    with pytest.raises(ConnectError):
        await start_host("ws://127.0.0.1:1", servicer)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, servicer)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            assert await Stub(channel).unary_unary("Number")(b"") == b"1"
        await server.stop(0)


def test_what_is_declared_wrongly() -> None:
    with pytest.raises(ConfigError, match="'per_thread' is none of per_call, per_session, single"):
        relayrpc.service(instances="per_thread")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="decorate it with"):
        relayrpc.servicer(Servicer)
    with pytest.raises(ConfigError, match=r"Servicer object at .* is no class"):
        relayrpc.servicer(Servicer(Recorder()))  # type: ignore[type-var]
    cls: Any = relayrpc.service()(type("Each", (Servicer,), {}))
    with pytest.raises(ConfigError, match="factory of Each is 3, and must be a function"):
        relayrpc.servicer(cls, factory=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="throttle of Each is 3, and must be a relayrpc"):
        relayrpc.servicer(cls, throttle=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"calls": 0}, "calls is 0, and must be a whole number, at least 1"),
        ({"calls": 1.5}, "calls is 1.5, and must be a whole number, at least 1"),
        ({"sessions": "3"}, "sessions is '3', and must be a whole number, at least 1"),
        ({"instances": 0}, "instances is 0, and must be a whole number, at least 1"),
        ({"queue_max": -1}, "queue_max is -1, and must be a whole number, at least 0"),
        ({"on_full": "rejct"}, "on_full is 'rejct', and must be 'queue' or 'reject'"),
    ],
)
def test_throttle_that_is_declared_wrongly(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        relayrpc.Throttle(**options)


# --- throttles ---


@pytest.mark.parametrize("on_full", ["queue", "reject"])
async def test_a_throttle_of_calls(on_full: Any) -> None:
    recorder = Recorder()
    throttle = relayrpc.Throttle(calls=2, on_full=on_full)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        servicer = make_servicer(recorder, "per_call", throttle=throttle)
        server = await start_host(url, servicer)
        options = [("grpc.enable_retries", 0)]
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}", options=options) as channel:
            wait = Stub(channel).unary_unary("Wait")
            calls = [wait(b"%d" % number) for number in range(3)]
            await until(lambda: recorder.running == 2)
            if on_full == "reject":
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await calls.pop()
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert caught.value.details() == "the host has 2 calls at once"
                assert not caught.value.may_have_executed
            else:
                await until(lambda: throttle.waiting_counts["calls"] == 1)
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await wait(b"", timeout=0.01)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                await until(lambda: throttle.waiting_counts["calls"] == 1)
                throttle.calls = 3
                await until(lambda: recorder.running == 3)
            recorder.go_on.set()
            await asyncio.gather(*calls)
            await until(lambda: throttle.counts["calls"] == 0)
        await server.stop(0)
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


@pytest.mark.parametrize("on_full", ["queue", "reject"])
async def test_a_throttle_of_sessions(on_full: Any) -> None:
    recorder = Recorder()
    throttle = relayrpc.Throttle(sessions=1, on_full=on_full)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(
            url, make_servicer(recorder, "per_session", throttle=throttle)
        )
        options = [("grpc.enable_retries", 0)]
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}", options=options) as channel:
            first, second = channel.session(), channel.session()
            assert await Stub(first).unary_unary("Number")(b"") == b"1"
            waiting = Stub(second).unary_unary("Number")(b"")
            if on_full == "reject":
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await waiting
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert caught.value.details() == "the host has 1 sessions at once"
                await first.close()
            else:
                await until(lambda: throttle.waiting_counts["sessions"] == 1)
                third = channel.session()
                gone = Stub(third).unary_unary("Number")(b"")
                await until(lambda: throttle.waiting_counts["sessions"] == 2)
                third.abort()
                await until(lambda: throttle.waiting_counts["sessions"] == 1)
                assert gone.cancelled()
                await first.close()
                assert await waiting == b"2"
                await second.close()
            await until(lambda: throttle.counts["instances"] == 0)
        await server.stop(0)
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    assert throttle.waiting_counts == {"calls": 0, "sessions": 0, "instances": 0}


@pytest.mark.parametrize("kind", ["calls", "sessions", "instances"])
async def test_no_more_than_queue_max_wait_for_a_throttle(kind: Any) -> None:
    """One more is rejected, and a call is told when to try again."""
    recorder = Recorder()
    throttle = relayrpc.Throttle(queue_max=2, **{kind: 1})
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, "per_call", throttle=throttle))
        options = [("grpc.enable_retries", 0)]
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}", options=options) as channel:
            sessions = [channel.session() for _ in range(4)]
            callers = sessions if kind == "sessions" else [channel] * 4
            calls = []
            for number, caller in enumerate(callers[:3]):
                calls.append(Stub(caller).unary_unary("Wait")(b"%d" % number))
                await until(lambda: recorder.running == 1)
                await until(lambda: throttle.waiting_counts[kind] == len(calls) - 1)
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(callers[3]).unary_unary("Wait")(b"")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert caught.value.details() == f"the host has 1 {kind} at once, and 2 wait"
            assert not caught.value.may_have_executed
            assert caught.value.trailing_metadata()["grpc-retry-pushback-ms"] == "1000"
            recorder.go_on.set()
            for number, call in enumerate(calls):
                assert await call == b"%d" % number
                await sessions[number].close()
            await until(lambda: not any(throttle.counts.values()))
        await server.stop(0)


async def test_services_share_a_throttle() -> None:
    recorder = Recorder()
    throttle = relayrpc.Throttle(calls=1)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        for service in ("test.Service", "test.Other"):
            servicer = make_servicer(recorder, "per_call", throttle=throttle)
            handlers = make_handlers({"uu:Wait": servicer.Wait})
            server.add_registered_method_handlers(service, handlers)
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            first = Stub(channel).unary_unary("Wait")(b"1")
            await until(lambda: recorder.running == 1)
            second = Stub(channel, "test.Other").unary_unary("Wait")(b"2")
            await until(lambda: throttle.waiting_counts["calls"] == 1)
            recorder.go_on.set()
            assert await asyncio.gather(first, second) == [b"1", b"2"]
        await server.stop(0)
    assert recorder.most_running == 1
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


async def test_a_session_that_waits_as_its_host_stops_goes_to_another_one() -> None:
    recorders = Recorder(), Recorder()
    throttle = relayrpc.Throttle(sessions=1)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        servicer = make_servicer(recorders[0], "per_session", throttle=throttle)
        server = await start_host(url, servicer)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            first, second = channel.session(), channel.session()
            running = Stub(first).unary_unary("Wait")(b"1")
            await until(lambda: recorders[0].running)
            waiting = Stub(second).unary_unary("Number")(b"")
            await until(lambda: throttle.waiting_counts["sessions"] == 1)
            other = await start_host(url, make_servicer(recorders[1], "per_session"))
            stopping = asyncio.create_task(server.stop(30))
            assert await waiting == b"1"
            assert recorders[1].made == 1
            recorders[0].go_on.set()
            assert await running == b"1"
            await stopping
            await second.close()
        await other.stop(0)
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    assert throttle.waiting_counts == {"calls": 0, "sessions": 0, "instances": 0}


@pytest.mark.parametrize("confirm", ["host", "hub"])
@pytest.mark.parametrize("waits_for", ["turn", "throttle", "thread"])
async def test_a_call_that_waits_as_its_host_stops_goes_to_another_one(
    waits_for: str, confirm: str
) -> None:
    """One that has begun may have been executed; one that has not begun is not lost."""
    recorders = Recorder(), Recorder()
    entered, go_on = threading.Event(), threading.Event()
    metadata = [("relay-confirm", confirm)]
    # An object is made for the second call too; and of plain handlers, none.
    throttle = relayrpc.Throttle(calls=1 if waits_for == "throttle" else 2)

    def plain(request: bytes, context: Any) -> bytes:
        entered.set()
        go_on.wait()
        return request

    async with running_hub(limits=replace(DEFAULT_LIMITS, retry_after_s=0.05)) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        if waits_for == "thread":
            pool = ThreadPoolExecutor(1)
            server = relayrpc.aio.server(f"{url}/{ADDRESS}", migration_thread_pool=pool)
            handlers = make_handlers({"uu:Wait": plain})
            server.add_registered_method_handlers("test.Service", handlers)
            await server.start()
        else:
            concurrency = "single" if waits_for == "turn" else "multiple"
            servicer = make_servicer(recorders[0], "single", concurrency, throttle=throttle)
            server = await start_host(url, servicer)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            running = Stub(channel).unary_unary("Wait")(b"1")
            await until(lambda: bool(recorders[0].running) or entered.is_set())
            waiting = Stub(channel).unary_unary("Wait")(b"2", metadata=metadata)
            await until(lambda: len(server._contexts) == 2)
            other = await start_host(url, make_servicer(recorders[1], "single"))
            recorders[1].go_on.set()
            stopping = asyncio.create_task(server.stop(0.01))
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await running
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.may_have_executed
            assert await waiting == (b"2" if confirm == "host" else b"")
            await until(lambda: recorders[1].most_running == 1)
            go_on.set()
            await stopping
        await other.stop(1)
        assert await _lost(hub) == 0
    assert recorders[0].most_running <= 1
    assert throttle.waiting_counts == {"calls": 0, "sessions": 0, "instances": 0}


async def _lost(hub: Hub) -> float:
    samples = await scrape(hub.http_port)
    return sum(value for (name, _), value in samples.items() if "one_way_lost" in name)


async def test_a_session_that_waits_as_its_hub_drains_is_refused() -> None:
    recorder = Recorder()
    throttle = relayrpc.Throttle(sessions=1)
    async with running_hub(limits=replace(DEFAULT_LIMITS, drain_timeout_s=3600.0)) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, make_servicer(recorder, "per_session", throttle=throttle))
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            first, second = channel.session(), channel.session()
            running = Stub(first).unary_unary("Wait")(b"1")
            await until(lambda: recorder.running)
            waiting = Stub(second).unary_unary("Wait")(b"2", timeout=30)
            await until(lambda: throttle.waiting_counts["sessions"] == 1)
            draining = asyncio.create_task(hub.drain())
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await waiting
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not caught.value.may_have_executed
            recorder.go_on.set()
            assert await running == b"1"
            await draining
        await server.stop(0)
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


async def test_throttles_are_metrics_where_there_is_an_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    recorder = Recorder()
    throttle = relayrpc.Throttle(calls=2, sessions=7)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = relayrpc.aio.server(f"{url}/{ADDRESS}")
        add_servicer(make_servicer(recorder, "per_call", throttle=throttle), server)
        sharing = make_servicer(recorder, "per_call", throttle=throttle)
        handlers = make_handlers({"uu:Wait": sharing.Wait})
        server.add_registered_method_handlers("test.Sharing", handlers)
        await server.start()
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            calls = [Stub(channel).unary_unary("Wait")(b"") for _ in range(3)]
            await until(lambda: throttle.waiting_counts["calls"] == 1)
            data = reader.get_metrics_data()
            assert data is not None
            readings = {
                service: {
                    (metric.name.rpartition(".")[2], point.attributes["relayrpc.kind"]): point.value
                    for resource in data.resource_metrics
                    for scope in resource.scope_metrics
                    for metric in scope.metrics
                    for point in metric.data.data_points
                    if point.attributes["rpc.service"] == service
                }
                for service in ("test.Service", "test.Sharing")
            }
            recorder.go_on.set()
            await asyncio.gather(*calls)
        await server.stop(0)
    provider.shutdown()
    # A throttle that services share is read under the name of each.
    values = readings["test.Service"]
    assert values == readings["test.Sharing"]
    assert values["used", "calls"] == 2
    assert values["waiting", "calls"] == 1
    assert values["limit", "calls"] == 2
    assert values["limit", "sessions"] == 7
    # One that waits has the place for its object by then.
    assert values["used", "instances"] == 3
