"""
Goal: call credentials made for grpcio give a call its metadata through a relay as they do direct,
and stay secret.

Method: plugins of every kind on grpc.aio's own channel and on a relay's, over TLS, with the same
assertions; and how grpcio lets their plugins be seen.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
from relayrpc.endpoint.call_credentials import describe_service, find_plugins
from relayrpc.limits import Limits
from relayrpc.testing import memory_hub
from tests.support.aio_sides import ServeAio, serving_aio
from tests.support.carriers import TLSFiles, tls_files
from tests.support.relay import make_handlers


__all__ = ["tls_files"]

pytestmark = pytest.mark.integration

METHOD = "/test.Service/M"
TOKEN = "e5c4et"


class Plugin(grpc.AuthMetadataPlugin):  # type: ignore[misc]  # grpcio ships no types
    """Does what a test says, and notes what it was told."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self.contexts: list[Any] = []
        self.threads: set[int] = set()

    def __call__(self, context: Any, callback: Any) -> None:
        self.contexts.append(context)
        self.threads.add(threading.get_ident())
        self._answer(callback)


def gives(*metadata: Any) -> Plugin:
    return Plugin(lambda callback: callback(metadata, None))


def raises(callback: Any) -> None:
    raise ValueError("boom")


async def reflect(request: bytes, context: Any) -> bytes:
    pairs = [pair for pair in context.invocation_metadata() if pair[0] != "user-agent"]
    return repr([(key, value) for key, value in pairs]).encode()


async def reflect_all(requests: Any, context: Any) -> bytes:
    count = len([request async for request in requests])
    return await reflect(b"", context) + b" %d" % count


async def error_of(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


# --- as grpcio ---


@pytest.mark.parametrize("make", [grpc.metadata_call_credentials, relayrpc.call_credentials])
async def test_plugin_gives_metadata(serve_aio: ServeAio, tls_files: TLSFiles, make: Any) -> None:
    plugin = gives(("a", "1"), ("b-bin", b"\x00"))
    async with serve_aio({"uu:M": reflect}, tls=tls_files) as channel:
        method = channel.unary_unary(METHOD)
        reply = await method(b"", metadata=(("m", "0"),), credentials=make(plugin))
    assert reply == b"[('m', '0'), ('a', '1'), ('b-bin', b'\\x00')]"
    (context,) = plugin.contexts
    assert isinstance(context, grpc.AuthMetadataContext)
    assert context.service_url.startswith("https://127.0.0.1:")
    assert context.service_url.endswith("/test.Service")
    assert context.method_name == "M"
    # It may block: never on the loop.
    assert threading.get_ident() not in plugin.threads


async def test_compositions_are_asked_in_order(serve_aio: ServeAio, tls_files: TLSFiles) -> None:
    token = grpc.access_token_call_credentials(TOKEN)
    inner = grpc.composite_call_credentials(token, relayrpc.call_credentials(gives(("a", "1"))))
    credentials = grpc.composite_call_credentials(
        inner, grpc.metadata_call_credentials(gives(("a", "2")))
    )
    async with serve_aio({"uu:M": reflect}, tls=tls_files) as channel:
        reply = await channel.unary_unary(METHOD)(b"", credentials=credentials)
    expected = [("authorization", f"Bearer {TOKEN}"), ("a", "1"), ("a", "2")]
    assert reply == repr(expected).encode()


async def test_every_shape_waits_for_its_metadata(
    serve_aio: ServeAio, tls_files: TLSFiles
) -> None:
    def later(callback: Any) -> None:
        threading.Timer(0.01, callback, ((("a", "1"),), None)).start()

    async def stream(request: Any, context: Any) -> Any:
        yield await reflect(b"", context)

    credentials = grpc.metadata_call_credentials(Plugin(later))
    behaviors = {"uu:UU": reflect, "us:US": stream, "su:SU": reflect_all, "ss:SS": stream}
    async with serve_aio(behaviors, tls=tls_files) as channel:
        call: Any = channel.unary_unary("/test.Service/UU")(b"", credentials=credentials)
        assert await call == b"[('a', '1')]"
        call = channel.unary_stream("/test.Service/US")(b"", credentials=credentials)
        assert [message async for message in call] == [b"[('a', '1')]"]
        collect = channel.stream_unary("/test.Service/SU")
        assert await collect(iter([b"x", b"y"]), credentials=credentials) == b"[('a', '1')] 2"
        call = collect(credentials=credentials)
        await call.write(b"x")
        await call.done_writing()
        assert await call == b"[('a', '1')] 1"
        call = collect(credentials=credentials)
        await call.done_writing()
        assert await call == b"[('a', '1')] 0"
        call = channel.stream_stream("/test.Service/SS")(credentials=credentials)
        assert await call.read() == b"[('a', '1')]"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("answer", "details"),
    [
        (raises, "Getting metadata from plugin failed with error: boom"),
        (
            lambda callback: callback(None, ValueError("why")),
            "Getting metadata from plugin failed with error: why",
        ),
        (lambda callback: callback((("Bad", TOKEN),), None), "Illegal metadata"),
        (lambda callback: callback((("bad", f"{TOKEN}\n"),), None), "Illegal metadata"),
    ],
    ids=["raises", "error", "key", "value"],
)
async def test_failing_plugin_makes_the_call_unavailable(
    serve_aio: ServeAio, tls_files: TLSFiles, answer: Any, details: str
) -> None:
    credentials = grpc.metadata_call_credentials(Plugin(answer))
    async with serve_aio({"uu:M": reflect, "su:S": reflect_all}, tls=tls_files) as channel:
        method = channel.unary_unary(METHOD)
        collect = channel.stream_unary("/test.Service/S")
        for start in (
            lambda: method(b"", credentials=credentials),
            lambda: collect(credentials=credentials).write(b""),
            lambda: collect(iter([b""]), credentials=credentials),
        ):
            error = await error_of(start())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == details
            assert TOKEN not in str(error)


@pytest.mark.parametrize("answer", [None, ()])
async def test_plugin_may_give_nothing(
    serve_aio: ServeAio, tls_files: TLSFiles, answer: Any
) -> None:
    credentials = grpc.metadata_call_credentials(Plugin(lambda callback: callback(answer, None)))
    async with serve_aio({"uu:M": reflect}, tls=tls_files) as channel:
        assert await channel.unary_unary(METHOD)(b"", credentials=credentials) == b"[]"


async def test_plugin_that_calls_twice_is_told(serve_aio: ServeAio, tls_files: TLSFiles) -> None:
    errors: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def twice(callback: Any) -> None:
        callback((("a", "1"),), None)
        try:
            callback((("a", "2"),), None)
        except RuntimeError as error:
            errors.put(error)

    async with serve_aio({"uu:M": reflect}, tls=tls_files) as channel:
        method = channel.unary_unary(METHOD)
        for make in (grpc.metadata_call_credentials, relayrpc.call_credentials):
            reply = await method(b"", credentials=make(Plugin(twice)))
            assert reply == b"[('a', '1')]"
            error = await asyncio.to_thread(errors.get)
            assert str(error) == "AuthMetadataPluginCallback invoked more than once!"


async def test_call_ends_while_its_plugin_is_silent(
    serve_aio: ServeAio, tls_files: TLSFiles
) -> None:
    asked = threading.Semaphore(0)

    def silent(callback: Any) -> None:
        asked.release()

    credentials = grpc.metadata_call_credentials(Plugin(silent))
    async with serve_aio({"uu:M": reflect}, tls=tls_files) as channel:
        method = channel.unary_unary(METHOD)
        error = await error_of(method(b"", credentials=credentials, timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "Deadline Exceeded"
        call = method(b"", credentials=credentials)
        await asyncio.to_thread(asked.acquire)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        call = method(b"", credentials=credentials)
        await asyncio.sleep(0)
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_call_credentials_need_tls(serve_aio: ServeAio) -> None:
    text = "^Call credentials are only valid on secure channels$"
    async with serve_aio({"uu:M": reflect}) as channel:
        with pytest.raises(grpc.aio.UsageError, match=text):
            await channel.unary_unary(METHOD)(
                b"", credentials=grpc.access_token_call_credentials(TOKEN)
            )


async def test_target_name_override_is_seen_by_plugins(
    serve_aio: ServeAio, tls_files: TLSFiles
) -> None:
    """It is the name that the certificate must bear, too; an authority is only seen by plugins."""
    plugin = gives()
    options: list[Any] = [("grpc.ssl_target_name_override", "localhost")]
    for more in ([], [("grpc.default_authority", "svc.example")]):
        async with serve_aio(
            {"uu:M": reflect}, tls=tls_files, channel_options={"options": options + more}
        ) as channel:
            await channel.unary_unary(METHOD)(
                b"", credentials=grpc.metadata_call_credentials(plugin)
            )
    urls = [context.service_url for context in plugin.contexts]
    assert urls == ["https://localhost/test.Service", "https://svc.example/test.Service"]


# --- the relay's own ---


async def test_credentials_of_the_channel_come_first(tls_files: TLSFiles) -> None:
    options = {"call_credentials": grpc.access_token_call_credentials(TOKEN)}
    async with serving_aio(
        "relay", {"uu:M": reflect, "su:S": reflect_all}, tls=tls_files, channel_options=options
    ) as channel:
        own = relayrpc.call_credentials(gives(("a", "1")))
        reply = await channel.unary_unary(METHOD)(b"", credentials=own)
        assert reply == repr([("authorization", f"Bearer {TOKEN}"), ("a", "1")]).encode()
        reply = await channel.stream_unary("/test.Service/S")(iter([b"x"]))
        assert reply == repr([("authorization", f"Bearer {TOKEN}")]).encode() + b" 1"


async def test_plugin_that_gives_no_metadata_at_all_ends_its_call(tls_files: TLSFiles) -> None:
    """Where grpcio hangs."""
    async with serving_aio("relay", {"uu:M": reflect}, tls=tls_files) as channel:
        for answer in (5, (("a-bin", TOKEN),), (("relay-instance", "x"),)):
            plugin = Plugin(lambda callback, answer=answer: callback(answer, None))
            credentials = grpc.metadata_call_credentials(plugin)
            error = await error_of(channel.unary_unary(METHOD)(b"", credentials=credentials))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == "Illegal metadata"
            assert not error.may_have_executed


async def test_channel_may_close_before_a_plugin_is_asked(tls_files: TLSFiles) -> None:
    plugin = gives(("a", "1"))
    credentials = relayrpc.call_credentials(plugin)
    async with serving_aio("relay", {"uu:M": reflect}, tls=tls_files) as channel:
        channel.get_state(try_to_connect=True)
        before = asyncio.all_tasks()
        call = channel.unary_unary(METHOD)(b"", credentials=credentials)
        (asking,) = asyncio.all_tasks() - before
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert asking.done()
        assert asking.cancelled() or asking.exception() is None
    assert not plugin.contexts


async def test_too_much_metadata_of_plugins_ends_the_call(tls_files: TLSFiles) -> None:
    async with serving_aio("relay", {"uu:M": reflect}, tls=tls_files) as channel:
        plugin = gives(("a", "x" * 9000))
        once = grpc.metadata_call_credentials(plugin)
        twice = grpc.composite_call_credentials(once, once)
        method = channel.unary_unary(METHOD)
        await method(b"", credentials=once)
        error = await error_of(method(b"", credentials=twice))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "is over 16384 bytes" in error.details()


async def test_credentials_whose_plugin_cannot_be_seen_raise_at_once(tls_files: TLSFiles) -> None:
    text = r"make them with relayrpc\.call_credentials\(plugin\)"
    async with serving_aio("relay", {"uu:M": reflect}, tls=tls_files) as channel:
        for credentials in (grpc.CallCredentials(object()), "no credentials"):
            with pytest.raises(grpc.aio.UsageError, match=text):
                channel.unary_unary(METHOD)(b"", credentials=credentials)


async def test_nothing_of_a_plugin_is_logged(
    tls_files: TLSFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with serving_aio("relay", {"uu:M": reflect}, tls=tls_files) as channel:
        method = channel.unary_unary(METHOD)
        await method(b"", credentials=grpc.access_token_call_credentials(TOKEN))
        illegal = relayrpc.call_credentials(gives(("Bad", TOKEN)))
        await error_of(method(b"", credentials=illegal))
    assert TOKEN not in caplog.text


async def test_hub_in_memory_takes_credentials() -> None:
    async with memory_hub() as hub:
        server = hub.server("a")
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:M": reflect}))
        await server.start()
        credentials = relayrpc.call_credentials(gives(("a", "1")))
        reply = await hub.channel("a").unary_unary(METHOD)(b"", credentials=credentials)
    assert reply == b"[('a', '1')]"


async def test_plugins_wait_for_a_thread(tls_files: TLSFiles) -> None:
    running, most = threading.Semaphore(2), threading.Lock()

    def alone(callback: Any) -> None:
        assert running.acquire(blocking=False)
        with most:
            callback((), None)
        running.release()

    credentials = relayrpc.call_credentials(Plugin(alone))
    options = {"limits": Limits(plugin_threads_max=2)}
    async with serving_aio(
        "relay", {"uu:M": reflect}, tls=tls_files, channel_options=options
    ) as channel:
        method = channel.unary_unary(METHOD)
        await asyncio.gather(*[method(b"", credentials=credentials) for _ in range(20)])


async def test_blocking_calls_have_credentials_too(tls_files: TLSFiles) -> None:
    def later(callback: Any) -> None:
        threading.Timer(0.01, callback, ((("a", "1"),), None)).start()

    def call(url: str) -> list[bytes]:
        trust = relayrpc.TLSOptions(ca_file=tls_files.ca_file)
        credentials = grpc.metadata_call_credentials(Plugin(later))
        with relayrpc.channel(url, tls=trust) as channel:
            unary = channel.unary_unary(METHOD)(b"", credentials=credentials)
            collect = channel.stream_unary("/test.Service/S")
            return [unary, collect(iter([b"x", b"y"]), credentials=credentials)]

    behaviors = {"uu:M": reflect, "su:S": reflect_all}
    async with serving_aio("relay", behaviors, tls=tls_files) as channel:
        url = str(channel.live.url)  # type: ignore[attr-defined]  # the relay's own
        replies = await asyncio.to_thread(call, url)
    assert replies == [b"[('a', '1')]", b"[('a', '1')] 2"]


# --- grpcio ---


def test_grpcio_lets_plugins_be_seen() -> None:
    """A change here takes `grpc.*_call_credentials` from relays' channels; ours stay."""
    token = grpc.access_token_call_credentials(TOKEN)
    plugin = grpc.metadata_call_credentials(gives())
    assert len(find_plugins(token)) == 1
    assert len(find_plugins(grpc.composite_call_credentials(token, plugin, token))) == 3


def test_service_is_described_as_by_grpcio() -> None:
    assert describe_service("hub:7351", "a.B/M") == ("https://hub:7351/a.B", "M")
    assert describe_service("hub:443", "a.B/M") == ("https://hub/a.B", "M")
