"""
Goal: a set of callers is told the same things, each in order and at its own pace; a slow one holds
up nobody, and one that is gone leaves. And: a process that is host and caller on one link.

Method: hosts and callers over a real hub on loopback.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.aio import CallbackSet
from relayrpc.endpoint.anchor import SESSION_METHOD
from relayrpc.errors import ConfigError, UsageError
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration


class Events:
    """A stub of what the callers serve."""

    def __init__(self, channel: Any) -> None:
        self.Tell = channel.unary_unary("/test.Events/Tell")


class Listener:
    """Notes what it is told, once it may."""

    def __init__(self, *, is_stuck: bool = False) -> None:
        self.heard: list[bytes] = []
        self.go_on = asyncio.Event()
        if not is_stuck:
            self.go_on.set()

    async def tell(self, request: bytes, context: Any) -> bytes:
        await self.go_on.wait()
        self.heard.append(request)
        if request == b"fail":
            raise ValueError("cannot hear it")
        return b""


def add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    server.add_registered_method_handlers(
        "test.Events", make_handlers({"uu:Tell": listener.tell})
    )


async def start_host(url: str, callers: CallbackSet[Any]) -> relayrpc.aio.Server:
    async def watch(request: bytes, context: Any) -> bytes:
        callers.add(context)
        return b""

    server = relayrpc.aio.server(f"{url}/{ADDRESS}")
    server.add_registered_method_handlers("test.Service", make_handlers({"uu:Watch": watch}))
    await server.start()
    return server


async def watching(url: str, listener: Listener) -> relayrpc.aio.Channel:
    channel = relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=[(add_listener, listener)])
    await Stub(channel).unary_unary("Watch")(b"")
    return channel


class Odd:
    """A stub whose methods are of other shapes too."""

    def __init__(self, channel: Any) -> None:
        self._tell = channel.unary_unary("/test.Events/Tell")
        self.Stream = channel.unary_stream("/test.Events/Tell")
        self.Unknown = channel.unary_unary("/test.Events/Unknown")

    def Tell(self, request: bytes, *, timeout: float | None = None) -> Any:
        return self._tell(request, timeout=timeout)

    def Broken(self, request: bytes, *, timeout: float | None = None) -> Any:
        raise ValueError(request)


async def test_stopping_waits_for_no_call_that_the_host_has_open_itself() -> None:
    """Neither for lines to those who are called back, nor for its channel's; nor for its grace."""
    streaming = asyncio.Event()

    async def stream(request: bytes, context: Any) -> Any:
        streaming.set()
        await asyncio.Event().wait()
        yield request

    callers = CallbackSet(Events)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        other = relayrpc.aio.server(f"{url}/other")
        handlers = make_handlers({"us:Stream": stream})
        other.add_registered_method_handlers("test.Service", handlers)
        await other.start()
        server = await start_host(url, callers)
        channel = await watching(url, Listener())
        running = Stub(server.channel("other")).unary_stream("Stream")(b"")
        await streaming.wait()
        assert len(callers) == 1
        await server.stop(3600)
        assert await running.code() is grpc.StatusCode.UNAVAILABLE
        await channel.close()
        await other.stop(0)


async def test_what_cannot_be_published_is_told_of_and_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callers = CallbackSet(Odd)
    listener = Listener()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        channel = await watching(url, listener)
        with pytest.raises(AttributeError):
            callers.publish("NoSuch", b"")
        with pytest.raises(UsageError, match="Stream has a stream of messages"):
            callers.publish("Stream", b"1")
        callers.publish("Broken", b"2")
        # By the method itself, for type checkers.
        callers.publish(Odd.Tell, b"3")
        await callers.drain()
        assert listener.heard == [b"3"]
        assert (callers.delivered_count, callers.failed_count) == (1, 1)
        await channel.close()
        await server.stop(0)
    assert caplog.text.count("a callback to one of many failed") == 1


async def test_what_one_of_many_has_no_method_for_is_told_nobody() -> None:
    """Whichever of them it is."""
    has_method = iter((True, False))

    def make_stub(channel: Any) -> Any:
        return Events(channel) if next(has_method) else object()

    callers: CallbackSet[Any] = CallbackSet(make_stub)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        listener = Listener()
        channels = [await watching(url, each) for each in (listener, Listener())]
        with pytest.raises(AttributeError):
            callers.publish("Tell", b"1")
        await callers.drain()
        assert listener.heard == []
        for channel in channels:
            await channel.close()
        await server.stop(0)


async def test_a_set_holds_no_lines_to_those_who_are_not_in_it() -> None:
    """Who is taken out, and all of one that is dropped."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        callers = CallbackSet(Events)

        async def watch(request: bytes, context: Any) -> bytes:
            caller = callers.add(context)
            if request == b"leave":
                callers.remove(caller)
            return b""

        server = relayrpc.aio.server(f"{url}/{ADDRESS}")
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Watch": watch}))
        await server.start()
        channel = relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=[(add_listener, Listener())])
        for request in (b"leave", b"stay"):
            for _ in range(5):
                await Stub(channel).unary_unary("Watch")(request)
        await until(lambda: server.live.link.calls_open_count == 5)
        callers = CallbackSet(Events)
        gc.collect()
        await until(lambda: not server.live.link.calls_open_count)
        await channel.close()
        await server.stop(0)


async def test_draining_waits_for_what_was_published_before_it() -> None:
    """However much is published meanwhile."""
    callers = CallbackSet(Events)
    listener = Listener()
    is_drained = False

    class Publishing(Listener):
        async def tell(self, request: bytes, context: Any) -> bytes:
            if not is_drained:
                callers.publish("Tell", b"more")
            return await super().tell(request, context)

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        listener = Publishing()
        channel = await watching(url, listener)
        callers.publish("Tell", b"first")
        await callers.drain()
        is_drained = True
        assert listener.heard[0] == b"first"
        await callers.drain()
        await channel.close()
        await server.stop(0)


async def test_what_waits_goes_on_behind_a_callback_that_is_cancelled() -> None:
    """Within a session, where its caller can be called back still."""
    callers = CallbackSet(Events)
    added: list[relayrpc.aio.Caller] = []
    hangs = asyncio.Event()

    class Hanging(Listener):
        async def tell(self, request: bytes, context: Any) -> bytes:
            if request == b"hang":
                hangs.set()
                await asyncio.Event().wait()
            return await super().tell(request, context)

    async def watch(request: bytes, context: Any) -> bytes:
        added.append(callers.add(context))
        return b""

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Watch": watch}))
        await server.start()
        listener = Hanging()
        channel = relayrpc.aio.channel(url, callbacks=[(add_listener, listener)])
        async with channel.session() as session:
            await Stub(session).unary_unary("Watch")(b"")
            for request in (b"hang", b"1", b"2"):
                callers.publish("Tell", request)
            await hangs.wait()
            await added[0].close()
            await callers.drain()
            assert listener.heard == [b"1", b"2"]
            assert (callers.delivered_count, callers.failed_count) == (2, 1)
        await channel.close()
        await server.stop(0)


async def test_another_thread_is_told_how_to_publish_and_nothing_waits() -> None:
    """With a loop of its own and without one."""

    async def publish() -> None:
        callers.publish("Tell", b"from another loop")

    callers = CallbackSet(Events)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        listener = Listener()
        channel = await watching(url, listener)
        with pytest.raises(UsageError, match=r"call_soon_threadsafe.* relayrpc\.CallbackSet"):
            await asyncio.to_thread(callers.publish, "Tell", b"from a thread")
        with pytest.raises(UsageError, match="on its server's event loop alone"):
            await asyncio.to_thread(asyncio.run, publish())
        await callers.drain()
        callers.publish("Tell", b"1")
        await callers.drain()
        assert listener.heard == [b"1"]
        await channel.close()
        await server.stop(0)


async def test_a_plain_client_in_a_session_leaves_as_it_cannot_be_called_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callers = CallbackSet(Events)
    async with running_hub() as hub:
        server = await start_host(f"ws://127.0.0.1:{hub.http_port}", callers)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            opening = channel.stream_stream(f"/test.Service/{SESSION_METHOD}")
            session = opening(metadata=[("relay-address", ADDRESS)])
            name = dict(await session.initial_metadata())["relay-session"]
            watch = Stub(channel).unary_unary("Watch")
            await watch(b"", metadata=[("relay-session", name)])
            assert len(callers) == 1
            for _ in range(5):
                callers.publish("Tell", b"")
            await callers.drain()
            assert len(callers) == 0
            assert callers.failed_count == 1
        await server.stop(0)
    assert caplog.text.count("leaves, which cannot be called back: this caller takes no") == 1


async def test_failures_of_one_caller_in_a_row_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of a method that it does not have, too, which it stays in the set with."""
    callers = CallbackSet(Odd)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        channel = await watching(url, Listener())
        for method, request in (
            ("Tell", b"fail"),
            ("Unknown", b""),
            ("Tell", b"heard"),
            ("Unknown", b""),
            ("Tell", b"fail"),
        ):
            callers.publish(method, request)
        await callers.drain()
        assert len(callers) == 1
        assert (callers.delivered_count, callers.failed_count) == (1, 4)
        await channel.close()
        await server.stop(0)
    assert caplog.text.count("a callback to one of many failed") == 2


async def test_everyone_is_told_in_order_and_a_slow_one_holds_up_nobody() -> None:
    callers: CallbackSet[Any] = CallbackSet(Events, queue_max=10)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        listeners = [Listener(is_stuck=number == 3) for number in range(8)]
        channels = [await watching(url, listener) for listener in listeners]
        assert len(callers) == 8
        sent = [b"%d" % number for number in range(30)]
        for batch in (sent[:10], sent[10:20], sent[20:]):
            for data in batch:
                callers.publish("Tell", data)
            await until(
                lambda last=batch[-1]: all(
                    last in listener.heard for listener in listeners if listener.go_on.is_set()
                )
            )
        stuck = listeners.pop(3)
        assert all(listener.heard == sent for listener in listeners)
        assert stuck.heard == []
        stuck.go_on.set()
        await callers.drain()
        # One was on its way, ten waited, the oldest of the others were dropped.
        assert stuck.heard == [sent[0], *sent[-10:]]
        assert callers.dropped_count == 19
        assert callers.delivered_count == 7 * len(sent) + 11
        await channels.pop(3).close()
        await until(lambda: len(callers) == 7)
        callers.publish("Tell", b"fail")
        await callers.drain()
        assert callers.failed_count == 7
        for channel in channels:
            await channel.close()
        await until(lambda: len(callers) == 0)
        callers.publish("Tell", b"nobody")
        await server.stop(0)


@pytest.mark.parametrize("on_slow", ["drop_newest", "remove"])
async def test_what_becomes_of_the_slow(on_slow: Any) -> None:
    callers: CallbackSet[Any] = CallbackSet(Events, queue_max=2, on_slow=on_slow)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        listener = Listener(is_stuck=True)
        channel = await watching(url, listener)
        callers.publish("Tell", b"1")
        await asyncio.sleep(0)
        for data in (b"2", b"3", b"4"):
            callers.publish("Tell", data)
        assert len(callers) == (0 if on_slow == "remove" else 1)
        assert callers.dropped_count == (3 if on_slow == "remove" else 1)
        listener.go_on.set()
        await callers.drain()
        assert listener.heard == ([] if on_slow == "remove" else [b"1", b"2", b"3"])
        await channel.close()
        await server.stop(0)


async def test_a_set_is_bounded_and_declared_rightly() -> None:
    with pytest.raises(ConfigError, match="queue_max is 0"):
        CallbackSet(Events, queue_max=0)
    with pytest.raises(ConfigError, match="timeout_s is -1, and must be above 0"):
        CallbackSet(Events, timeout_s=-1)
    with pytest.raises(ConfigError, match="timeout_s is nan"):
        CallbackSet(Events, timeout_s=float("nan"))
    with pytest.raises(ConfigError, match="'wait' is none of"):
        CallbackSet(Events, on_slow="wait")  # type: ignore[arg-type]
    callers: CallbackSet[Any] = CallbackSet(Events, callers_max=1)
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, callers)
        first = await watching(url, Listener())
        with pytest.raises(relayrpc.aio.RpcError):
            await watching(url, Listener())
        await first.close()
        await server.stop(0)


async def test_publishing_within_a_turn_is_no_callback_to_wait_on() -> None:
    """The handler of an object in turns may publish: it does not wait."""
    callers: CallbackSet[Any] = CallbackSet(Events)

    @relayrpc.service(instances="single", concurrency="single")
    class Servicer:
        async def Watch(self, request: bytes, context: Any) -> bytes:
            callers.add(context)
            callers.publish("Tell", request)
            return b""

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = relayrpc.aio.server(f"{url}/{ADDRESS}")
        handlers = make_handlers({"uu:Watch": relayrpc.servicer(Servicer).Watch})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        listener = Listener()
        channel = await watching(url, listener)
        await callers.drain()
        assert listener.heard == [b""]
        await channel.close()
        await server.stop(0)


async def test_two_peers_call_each_other_over_a_link_each() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        peers = {}
        for name in ("ada", "bob"):

            async def say(request: bytes, context: Any, name: str = name) -> bytes:
                return name.encode() + b" heard " + request

            server = relayrpc.aio.server(f"{url}/chat/{name}", instance=name)
            server.add_registered_method_handlers(
                "test.Service", make_handlers({"uu:Say": say})
            )
            await server.start()
            peers[name] = server
        links = [link for link in hub.sessions.table.links if not link.is_local]
        assert len(links) == 2
        for name, other in (("ada", "bob"), ("bob", "ada")):
            stub = Stub(peers[name].channel(f"chat/{other}"))
            calls = (stub.unary_unary("Say")(b"%d" % number) for number in range(5))
            replies = await asyncio.gather(*calls)
            assert replies == [b"%s heard %d" % (other.encode(), n) for n in range(5)]
        assert [link for link in hub.sessions.table.links if not link.is_local] == links
        channel = peers["ada"].channel("chat/bob")
        await channel.close()
        again = Stub(peers["ada"].channel("chat/bob"))
        assert await again.unary_unary("Say")(b"!") == b"bob heard !"
        for server in peers.values():
            await server.stop(0)
