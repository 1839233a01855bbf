"""
Goal: service objects serve callbacks at a caller as they serve calls at a host: how many at once,
which object, and a wait for oneself that is told at once, from either side.

Method: hosts and callers of both kinds over a real hub on loopback.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.aio import CallbackSet
from relayrpc.errors import ConfigError, UsageError
from tests.support import session_contract
from tests.support.blocking import HubThread, hosting
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

EVENTS = "test.Events"
IN_SESSION = pytest.mark.parametrize("in_session", [False, True])


def events(channel: Any) -> Stub:
    return Stub(channel, EVENTS)


class Counting:
    """What a caller serves: callbacks that count how many of them run, and on how many objects."""

    made = 0
    running = 0
    most = 0

    def __init__(self) -> None:
        type(self).made += 1

    async def tell(self, request: bytes, context: Any) -> bytes:
        cls = type(self)
        cls.running += 1
        cls.most = max(cls.most, cls.running)
        # Whoever may run beside this one does so now.
        for _ in range(20):
            await asyncio.sleep(0)
        cls.running -= 1
        return request


def add_tell(servicer: Any, server: Any) -> None:
    server.add_registered_method_handlers(EVENTS, make_handlers({"uu:Tell": servicer.tell}))


@IN_SESSION
@pytest.mark.parametrize(
    ("mode", "concurrency", "most", "made"),
    [
        ("per_session", "single", 1, 1),
        ("single", "single", 1, 1),
        ("single", "multiple", 5, 1),
        ("per_call", "single", 5, 5),
    ],
)
async def test_so_many_callbacks_run_at_once_on_so_many_objects(
    mode: Any, concurrency: Any, most: int, made: int, in_session: bool
) -> None:
    """The channel stands for the session of those who call back."""

    @relayrpc.service(instances=mode, concurrency=concurrency)
    class Listener(Counting):
        pass

    async def call(request: bytes, context: Any) -> bytes:
        tell = context.callback(events).unary_unary("Tell")
        await asyncio.gather(*(tell(b"%d" % number) for number in range(5)))
        return request

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": call}))
        await server.start()
        callbacks = [(add_tell, relayrpc.servicer(Listener))]
        async with relayrpc.aio.channel(url, callbacks=callbacks) as channel:
            calling = channel.session() if in_session else channel
            await Stub(calling).unary_unary("Call")(b"")
        await server.stop(0)
    assert (Listener.most, Listener.made) == (most, made)


async def test_objects_serve_callbacks_of_one_channel_at_a_time() -> None:
    @relayrpc.service(instances="single")
    class Listener(Counting):
        pass

    async def call(request: bytes, context: Any) -> bytes:
        reply: bytes = await context.callback(events).unary_unary("Tell")(request)
        return reply

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": call}))
        await server.start()
        callbacks = [(add_tell, relayrpc.servicer(Listener))]
        async with relayrpc.aio.channel(url, callbacks=callbacks) as second:
            async with relayrpc.aio.channel(url, callbacks=callbacks) as first:
                assert await Stub(first).unary_unary("Call")(b"1") == b"1"
                for _ in range(2):
                    with pytest.raises(UsageError, match="make one for each"):
                        await Stub(second).unary_unary("Call")(b"2")
                assert await Stub(first).unary_unary("Call")(b"3") == b"3"
            assert await Stub(second).unary_unary("Call")(b"4") == b"4"
        await server.stop(0)
    assert Listener.made == 2


class Asking:
    """A callback that calls the host, which calls back."""

    channel: Any

    async def tell(self, request: bytes, context: Any) -> bytes:
        reply: bytes = await Stub(self.channel).unary_unary("Call")(request)
        return b"<" + reply


@pytest.mark.parametrize("make_channel", [relayrpc.channel, relayrpc.aio.channel])
@pytest.mark.parametrize(
    "callbacks",
    [
        Asking(),
        [Asking()],
        (add_tell, Asking()),
        [(Asking(), add_tell)],
        [(add_tell,)],
    ],
)
def test_callbacks_that_are_no_pairs(make_channel: Any, callbacks: Any) -> None:
    text = r"must be a list of pairs, \[\(add_OrderEventsServicer_to_server, servicer\)\]"
    with pytest.raises(ConfigError, match=text):
        make_channel("relay://127.0.0.1:1/a", callbacks=callbacks)


async def call_or_end(request: bytes, context: Any) -> bytes:
    depth = int(request)
    if not depth:
        return b"."
    told: bytes = await context.callback(events).unary_unary("Tell")(b"%d" % (depth - 1))
    return b">" + told


@IN_SESSION
@pytest.mark.parametrize("mode", ["per_session", "single"])
async def test_callback_waits_for_its_host_as_its_class_says(
    mode: Any, in_session: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Reentrant: its object serves the next one meanwhile; single: it would wait for itself."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        handlers = make_handlers({"uu:Call": call_or_end})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        for concurrency in ("reentrant", "multiple", "single"):

            @relayrpc.service(instances=mode, concurrency=concurrency)  # type: ignore[arg-type]
            class Listener(Asking):
                pass

            callbacks = [(add_tell, relayrpc.servicer(Listener))]
            async with relayrpc.aio.channel(url, callbacks=callbacks) as channel:
                Listener.channel = channel.session() if in_session else channel
                call = Stub(Listener.channel).unary_unary("Call")
                if concurrency != "single":
                    assert await call(b"3") == b"><><><."
                    continue
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await call(b"2")
                assert caught.value.code() is grpc.StatusCode.UNKNOWN
                # The object is free again.
                assert await call(b"0") == b"."
        await server.stop(0)
    assert "test.Events/Tell would deadlock" in caplog.text


@IN_SESSION
def test_blocking_callback_waits_for_its_host_as_its_class_says(
    relay_hub: HubThread, in_session: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def add(server: grpc.aio.Server) -> None:
        handlers = make_handlers({"uu:Call": call_or_end})
        server.add_registered_method_handlers("test.Service", handlers)

    with hosting(relay_hub, "async", add):
        for concurrency in ("reentrant", "multiple", "single"):

            @relayrpc.service(instances="single", concurrency=concurrency)  # type: ignore[arg-type]
            class Listener:
                channel: Any

                def tell(self, request: bytes, context: Any) -> bytes:
                    reply: bytes = Stub(self.channel).unary_unary("Call")(request)
                    return b"<" + reply

            callbacks = [(add_tell, relayrpc.servicer(Listener))]
            with relayrpc.channel(relay_hub.url(), callbacks=callbacks) as channel:
                Listener.channel = channel.session() if in_session else channel
                call = Stub(Listener.channel).unary_unary("Call")
                if concurrency != "single":
                    assert call(b"3") == b"><><><."
                else:
                    with pytest.raises(relayrpc.RpcError) as caught:
                        call(b"2")
                    assert caught.value.code() is grpc.StatusCode.UNKNOWN
                    assert call(b"0") == b"."
                if in_session:
                    Listener.channel.close()
    assert "test.Events/Tell would deadlock" in caplog.text


# --- what is no deadlock, and what is one too ---


async def test_one_way_callback_is_one_where_its_call_says_so() -> None:
    """
    Whatever the contract says: a handler waits with `host`, and does not with `hub`, unless the
    request is one that does not go in one piece.
    """
    told: list[str] = []

    @relayrpc.service(instances="single", concurrency="single")
    class Service:
        async def call(self, request: bytes, context: Any) -> bytes:
            stub = Stub(context.caller(), request.decode())
            name = "Note" if request.decode() == session_contract.NOTES else "Tell"
            for confirm, size in (("hub", 0), ("host", 0), ("hub", 65_532), ("hub", 65_533)):
                metadata = [("relay-confirm", confirm)]
                try:
                    await stub.unary_unary(name)(bytes(size), metadata=metadata, timeout=30)
                except UsageError as error:
                    told.append(f"{confirm} {size}: {error}")
            return b""

    async def hear(request: bytes, context: Any) -> bytes:
        return b""

    def add(_: None, server: grpc.aio.Server) -> None:
        server.add_registered_method_handlers(EVENTS, make_handlers({"uu:Tell": hear}))
        server.add_registered_method_handlers(
            session_contract.NOTES, make_handlers({"uu:Note": hear})
        )

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        handlers = make_handlers({"uu:Call": relayrpc.servicer(Service).call})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        async with relayrpc.aio.channel(url, callbacks=[(add, None)]) as channel:
            for service in (EVENTS, session_contract.NOTES):
                await Stub(channel).unary_unary("Call")(service.encode())
        await server.stop(0)
    waited = ["host 0: test.Service/Call", "hub 65533: test.Service/Call"] * 2
    assert [each.partition(" would deadlock")[0] for each in told] == waited


class Watched:
    """A host whose handler waits until all who watch were told."""

    callers: Any

    async def watch(self, request: bytes, context: Any) -> bytes:
        self.callers.add(context)
        self.callers.publish("Tell", request)
        await self.callers.drain()
        return b"drained"


@pytest.mark.parametrize("concurrency", ["single", "reentrant", "multiple"])
async def test_handler_waits_for_a_set_of_callers_as_its_class_says(
    concurrency: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @relayrpc.service(instances="single", concurrency=concurrency)
    class Host(Watched):
        async def look(self, request: bytes, context: Any) -> bytes:
            return request

    Host.callers = CallbackSet(_Tell)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        servicer = relayrpc.servicer(Host)
        handlers = make_handlers({"uu:Watch": servicer.watch, "uu:Look": servicer.look})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        looked: list[bytes] = []

        class Listener:
            async def tell(self, request: bytes, context: Any) -> bytes:
                # Of the object whose handler waits for this.
                looked.append(await Stub(channel).unary_unary("Look")(request))
                return b""

        async with relayrpc.aio.channel(url, callbacks=[(add_tell, Listener())]) as channel:
            watch = Stub(channel).unary_unary("Watch")
            if concurrency == "single":
                with pytest.raises(relayrpc.aio.RpcError):
                    await watch(b"1")
                await until(lambda: looked == [b"1"])
            else:
                assert await watch(b"1") == b"drained"
                assert looked == [b"1"]
        await server.stop(0)
    assert ("would deadlock" in caplog.text) is (concurrency == "single")


class _Tell:
    def __init__(self, channel: Any) -> None:
        self.Tell = channel.unary_unary(f"/{EVENTS}/Tell")


@pytest.mark.parametrize("concurrency", ["single", "reentrant"])
def test_plain_handler_waits_for_a_set_of_callers_as_its_class_says(
    relay_hub: HubThread, concurrency: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callers = relayrpc.CallbackSet(_Tell)
    looked: list[bytes] = []
    heard = threading.Event()

    @relayrpc.service(instances="single", concurrency=concurrency)
    class Host:
        def watch(self, request: bytes, context: Any) -> bytes:
            callers.add(context)
            callers.publish("Tell", request)
            callers.drain()
            return b"drained"

        def look(self, request: bytes, context: Any) -> bytes:
            return request

    class Listener:
        def tell(self, request: bytes, context: Any) -> bytes:
            looked.append(Stub(channel).unary_unary("Look")(request))
            heard.set()
            return b""

    def add(server: Any) -> None:
        servicer = relayrpc.servicer(Host)
        handlers = make_handlers({"uu:Watch": servicer.watch, "uu:Look": servicer.look})
        server.add_registered_method_handlers("test.Service", handlers)

    with (
        hosting(relay_hub, "blocking", add),
        relayrpc.channel(relay_hub.url(), callbacks=[(add_tell, Listener())]) as channel,
    ):
        watch = Stub(channel).unary_unary("Watch")
        if concurrency == "single":
            with pytest.raises(relayrpc.RpcError):
                watch(b"1")
            heard.wait()
        else:
            assert watch(b"1") == b"drained"
    assert looked == [b"1"]
    assert ("would deadlock" in caplog.text) is (concurrency == "single")


async def test_callback_has_no_caller_of_its_own() -> None:
    """It calls its host by the channel that serves it."""
    told: list[str] = []

    class Listener:
        async def tell(self, request: bytes, context: Any) -> bytes:
            for ask in (context.caller, lambda: context.callback(events)):
                with pytest.raises(UsageError) as caught:
                    ask()
                told.append(str(caught.value))
            return request

    async def call(request: bytes, context: Any) -> bytes:
        reply: bytes = await context.callback(events).unary_unary("Tell")(request)
        return reply

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": call}))
        await server.start()
        async with relayrpc.aio.channel(url, callbacks=[(add_tell, Listener())]) as channel:
            assert await Stub(channel).unary_unary("Call")(b"x") == b"x"
        await server.stop(0)
    assert len(told) == 2
    assert all("by the channel that serves it" in each for each in told)


async def test_callback_takes_no_longer_than_its_contract_allows() -> None:
    """No hub knows the contracts of callers: the host keeps to them."""
    async def hang(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    def add(_: None, server: grpc.aio.Server) -> None:
        handlers = make_handlers({"uu:Bounded": hang})
        server.add_registered_method_handlers(session_contract.NOTES, handlers)

    async def call(request: bytes, context: Any) -> bytes:
        timeout = float(request) if request else None
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            stub = Stub(context.caller(), session_contract.NOTES)
            await stub.unary_unary("Bounded")(b"", timeout=timeout)
        return caught.value.code().name.encode()

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": call}))
        await server.start()
        async with relayrpc.aio.channel(url, callbacks=[(add, None)]) as channel:
            for timeout in (b"", b"3600"):
                assert await Stub(channel).unary_unary("Call")(timeout) == b"DEADLINE_EXCEEDED"
        await server.stop(0)
