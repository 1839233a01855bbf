"""
Goal: what goes wrong around a call is one clear error, and costs only that call.

Method: channels and servers made wrongly, hubs that are not there or speak otherwise, handlers and
interceptors that do what they must not; each error's status and text, and a good call afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.errors import ConfigError
from relayrpc.testing import LoopbackHub, run_hub
from tests.integration.peers import calling, host_process
from tests.integration.watched_hub import WatchedHub
from tests.support.aio_sides import ServeAio, serving_aio
from tests.support.carriers import TLSFiles, tls_files
from tests.support.relay import Stub, make_handlers
from tests.support.until import until


__all__ = ["tls_files"]

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


async def error_of(awaitable: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    assert "\n" not in str(caught.value.details())
    return caught.value


async def echo(request: bytes, context: Any) -> bytes:
    return request


# --- URLs ---


@pytest.mark.parametrize("make", [relayrpc.aio.channel, relayrpc.aio.server])
@pytest.mark.parametrize(
    "url", ["http://hub/a", "grpc://hub:50051", "dns:///hub:50051", "localhost:50051", ""]
)
def test_url_of_another_scheme_is_refused(make: Callable[..., Any], url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(url)
    text = "no relay URL; it starts with relay://, relays://, ws:// or wss://"
    assert str(caught.value) == f"cannot use {url!r}: {text}"


@pytest.mark.parametrize("make", [relayrpc.aio.channel, relayrpc.aio.server])
@pytest.mark.parametrize("url", [None, 5, b"ws://hub/a"])
def test_what_is_no_text_is_no_url(make: Callable[..., Any], url: Any) -> None:
    with pytest.raises(ConfigError, match="a relay URL is a text like 'relay://hub"):
        make(url)


# --- hubs that are not there, or speak otherwise ---


@pytest.mark.parametrize("scheme", ["ws", "relay"])
async def test_unknown_host_is_unavailable(scheme: str) -> None:
    async with relayrpc.aio.channel(f"{scheme}://no-such-host.invalid:7350/a") as channel:
        error = await error_of(Stub(channel).unary_unary("M")(b""))
    assert error.code() is Code.UNAVAILABLE
    text = "cannot connect to no-such-host.invalid:7350: name or service not known"
    assert error.details() == text
    assert (error.origin, error.may_have_executed) == ("caller", False)


@pytest.mark.parametrize("scheme", ["ws", "relay"])
@pytest.mark.parametrize("is_hub_secure", [False, True])
async def test_tls_against_plaintext_and_the_reverse_are_unavailable(
    scheme: str, is_hub_secure: bool, tls_files: TLSFiles
) -> None:
    config = {"tls_cert": tls_files.cert_file, "tls_key": tls_files.key_file}
    trust = relayrpc.aio.TLSOptions(ca_file=tls_files.ca_file)
    async with run_hub(**config if is_hub_secure else {}) as hub:
        port = hub.hub.http_port if scheme == "ws" else hub.hub.grpc_port
        url = f"{scheme}{'' if is_hub_secure else 's'}://127.0.0.1:{port}/a"
        async with relayrpc.aio.channel(url, tls=trust) as channel:
            error = await error_of(Stub(channel).unary_unary("M")(b""))
    assert error.code() is Code.UNAVAILABLE
    assert f"127.0.0.1:{port}" in error.details()
    assert ("want TLS" if is_hub_secure else "speak TLS") in error.details()
    assert not error.may_have_executed


# --- metadata and texts that are too large ---


async def begins_with_too_much(request: bytes, context: Any) -> bytes:
    await context.send_initial_metadata((("k", "x" * 17_000),))
    return b""


async def streams_with_too_much(request: bytes, context: Any) -> AsyncIterator[bytes]:
    await context.send_initial_metadata((("k", "x" * 17_000),))
    yield b""


async def ends_a_stream_with_too_much(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b""
    context.set_trailing_metadata((("k", "x" * 17_000),))


@pytest.mark.parametrize(
    "behavior", [begins_with_too_much, streams_with_too_much, ends_a_stream_with_too_much]
)
async def test_too_much_metadata_of_a_handler_ends_its_call(behavior: Any) -> None:
    kind = "uu" if behavior is begins_with_too_much else "us"
    async with serving_aio("relay", {f"{kind}:M": behavior, "uu:E": echo}) as channel:
        stub = Stub(channel)
        if kind == "uu":
            error = await error_of(stub.unary_unary("M")(b""))
        else:
            error = await error_of(anext_all(stub.unary_stream("M")(b"")))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert error.details() == "metadata of 17033 bytes is over 16384 bytes"
        assert await stub.unary_unary("E")(b"x") == b"x"


async def anext_all(call: Any) -> list[bytes]:
    return [message async for message in call]


async def test_too_much_metadata_of_a_stream_is_refused_before_it_is_sent() -> None:
    async with serving_aio("relay", {"uu:E": echo}) as channel:
        stub = Stub(channel)
        metadata = (("k", "x" * 17_000),)
        for call in (
            stub.unary_stream("M")(b"", metadata=metadata),
            stub.stream_stream("M")(metadata=metadata),
        ):
            error = await error_of(call.read())
            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert not error.may_have_executed
        assert await stub.unary_unary("E")(b"x") == b"x"


async def test_long_details_are_cut() -> None:
    async def tells(request: bytes, context: Any) -> bytes:
        await context.abort(Code.NOT_FOUND, "é" * 20_000)
        return b""

    async with serving_aio("relay", {"uu:M": tells}) as channel:
        error = await error_of(Stub(channel).unary_unary("M")(b""))
    assert error.code() is Code.NOT_FOUND
    assert error.details() == "é" * 2048


# --- handlers and interceptors ---


class Returns(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
    """Gives something for a handler."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return self._handler


class IsPlain(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
    """Is not what grpc.aio asks for."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return continuation(details)


@pytest.mark.parametrize(
    ("interceptor", "code"),
    [
        (Returns(5), Code.UNKNOWN),
        (Returns("handler"), Code.UNKNOWN),
        (Returns(None), Code.UNIMPLEMENTED),
    ],
)
async def test_interceptor_that_gives_no_handler_fails_its_call(
    serve_aio: ServeAio, interceptor: Any, code: grpc.StatusCode
) -> None:
    options = {"interceptors": [interceptor]}
    async with serve_aio({"uu:E": echo}, server_options=options) as channel:
        for _ in range(2):
            error = await error_of(Stub(channel).unary_unary("E")(b""))
            assert error.code() is code


async def test_interceptor_that_is_plain_serves_as_in_grpcio(serve_aio: ServeAio) -> None:
    """What it returns is awaited, and that is a coroutine."""
    async with serve_aio({"uu:E": echo}, server_options={"interceptors": [IsPlain()]}) as channel:
        assert await Stub(channel).unary_unary("E")(b"x") == b"x"


async def test_handler_that_blocks_its_loop_costs_its_host_alone(hub: WatchedHub) -> None:
    url = f"ws://127.0.0.1:{hub.http_port}"
    async with (
        host_process(f"{url}/blocked"),
        host_process(f"{url}/well"),
        calling(f"{url}/blocked") as blocked,
        calling(f"{url}/well") as well,
    ):
        await blocked.echo(b"warm", timeout=60)
        # From here on that host's process does nothing any more; its caller is told all the same.
        for _ in range(2):
            error = await error_of(blocked.block(b"", timeout=0.5))
            assert error.code() is Code.DEADLINE_EXCEEDED
            assert error.may_have_executed
            assert await well.echo(b"x", timeout=60) == b"x"
    hub.check_unhurt()


# --- what is left of all that ---


async def raises(request: bytes, context: Any) -> bytes:
    raise ValueError("x")


async def gives_nonsense(request: bytes, context: Any) -> Any:
    return object()


async def test_calls_that_fail_leave_nothing(tls_files: TLSFiles, unused_tcp_port: int) -> None:
    """No task, no thread and no file descriptor, at the end of as many failures again."""
    behaviors = {"uu:R": raises, "uu:N": gives_nonsense, "uu:B": begins_with_too_much}
    trust = relayrpc.aio.TLSOptions(ca_file=tls_files.ca_file)

    async def fail_in_every_way(hub: LoopbackHub) -> None:
        ports = {"ws": hub.hub.http_port, "relay": hub.hub.grpc_port}
        for scheme, port in ports.items():
            for where, tls in (
                (f"{scheme}://127.0.0.1:{unused_tcp_port}/a", None),
                (f"{scheme}://no-such-host.invalid:7350/a", None),
                (f"{scheme}s://127.0.0.1:{port}/a", trust),
            ):
                async with relayrpc.aio.channel(where, tls=tls) as channel:
                    await error_of(Stub(channel).unary_unary("M")(b""))
        for carrier in ("websocket", "grpc"):
            server = relayrpc.aio.server(hub.url("a"), carrier=carrier)
            server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
            await server.start()
            async with relayrpc.aio.channel(hub.url("a"), carrier=carrier) as channel:
                for method in ("R", "N", "B", "Unknown"):
                    await error_of(Stub(channel).unary_unary(method)(b""))
            await server.stop(None)

    async with run_hub() as hub:
        # What gRPC and the loop keep for good is there after the first time.
        await fail_in_every_way(hub)
        before = left_over()
        for _ in range(3):
            await fail_in_every_way(hub)
        await until(lambda: all(now <= then for now, then in zip(left_over(), before, strict=True)))


def left_over() -> tuple[int, int, int]:
    """Count tasks, threads but for those of the loop's own pool, and file descriptors."""
    gc.collect()
    threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
    return len(asyncio.all_tasks()), len(threads), len(os.listdir("/proc/self/fd"))
