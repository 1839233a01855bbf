"""
Goal: what goes wrong around a blocking call is one clear error, and costs only that call.

Method: channels and servers made wrongly, hubs that are not there or speak otherwise, handlers and
interceptors that do what they must not. Where grpc's own server and channel can be wrong in the
same way, the test runs on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import relayrpc
from relayrpc.errors import ConfigError
from tests.support.blocking import HubThread, Serve, hub_thread, serving
from tests.support.carriers import TLSFiles, tls_files


__all__ = ["tls_files"]

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


def echo(request: bytes, context: Any) -> bytes:
    return request


def error_of(call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **more)
    error: Any = caught.value
    assert "\n" not in error.details()
    return error


# --- hubs that are not there, or speak otherwise ---


@pytest.mark.parametrize("make", [relayrpc.channel, relayrpc.server])
@pytest.mark.parametrize("url", ["http://hub/a", "localhost:50051", ""])
def test_url_of_another_scheme_is_refused(make: Callable[..., Any], url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(url)
    text = "no relay URL; it starts with relay://, relays://, ws:// or wss://"
    assert str(caught.value) == f"cannot use {url!r}: {text}"


@pytest.mark.parametrize("scheme", ["ws", "relay"])
def test_hub_that_is_not_there_is_unavailable(scheme: str, unused_tcp_port: int) -> None:
    for hub, why in (
        ("no-such-host.invalid:7350", "name or service not known"),
        (f"127.0.0.1:{unused_tcp_port}", "connection refused"),
    ):
        with relayrpc.channel(f"{scheme}://{hub}/a") as channel:
            error = error_of(channel.unary_unary("/test.Service/E"), b"")
        assert error.code() is Code.UNAVAILABLE
        assert error.details() == f"cannot connect to {hub}: {why}"
        assert (error.origin, error.may_have_executed) == ("caller", False)


@pytest.mark.parametrize("scheme", ["ws", "relay"])
@pytest.mark.parametrize("is_hub_secure", [False, True])
def test_tls_against_plaintext_and_the_reverse_are_unavailable(
    scheme: str, is_hub_secure: bool, tls_files: TLSFiles
) -> None:
    config = {"tls_cert": tls_files.cert_file, "tls_key": tls_files.key_file}
    trust = relayrpc.TLSOptions(ca_file=tls_files.ca_file)
    with hub_thread(**config if is_hub_secure else {}) as hub:
        port = hub.http_port if scheme == "ws" else hub.grpc_port
        url = f"{scheme}{'' if is_hub_secure else 's'}://127.0.0.1:{port}/a"
        with relayrpc.channel(url, tls=trust) as channel:
            error = error_of(channel.unary_unary("/test.Service/E"), b"")
    assert error.code() is Code.UNAVAILABLE
    assert ("want TLS" if is_hub_secure else "speak TLS") in error.details()
    assert not error.may_have_executed


# --- too large ---


@pytest.mark.parametrize("direction", ["send", "receive"])
def test_message_over_a_bound_of_the_server_is_refused(serve: Serve, direction: str) -> None:
    bound = [(f"grpc.max_{direction}_message_length", 10)]
    behaviors = {"uu:E": echo, "us:S": lambda request, _: iter([request])}
    with serve(behaviors, options=bound) as channel:
        stream = channel.unary_stream("/test.Service/S")
        for call in (
            channel.unary_unary("/test.Service/E"),
            lambda request: list(stream(request)),
        ):
            error = error_of(call, bytes(20))
            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert "larger than max (20 vs. 10)" in error.details()
            assert call(bytes(10)) in (bytes(10), [bytes(10)])


def test_message_over_a_bound_of_the_channel_is_refused(relay_hub: HubThread) -> None:
    for direction, may_have_executed in (("send", False), ("receive", True)):
        bound = [(f"grpc.max_{direction}_message_length", 10)]
        with (
            serving("relay", relay_hub, {"uu:E": echo}),
            relayrpc.channel(relay_hub.url(), bound) as channel,
        ):
            call = channel.unary_unary("/test.Service/E")
            error = error_of(call, bytes(20))
            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert "larger than max (20 vs. 10)" in error.details()
            assert error.may_have_executed is may_have_executed
            assert call(bytes(10)) == bytes(10)


TOO_MUCH = (("k", "x" * 17_000),)


def begin_with_too_much(request: bytes, context: Any) -> bytes:
    context.send_initial_metadata(TOO_MUCH)
    return b""


def end_with_too_much(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata(TOO_MUCH)
    return b""


def abort_with_too_much(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata(TOO_MUCH)
    context.abort(Code.NOT_FOUND, "gone")
    raise AssertionError


@pytest.mark.parametrize("deed", [begin_with_too_much, end_with_too_much, abort_with_too_much])
def test_too_much_metadata_of_a_handler_ends_its_call(
    relay_hub: HubThread, deed: Callable[..., Any]
) -> None:
    with serving("relay", relay_hub, {"uu:M": deed, "uu:E": echo}) as channel:
        error = error_of(channel.unary_unary("/test.Service/M"), b"")
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert error.details() == "metadata of 17033 bytes is over 16384 bytes"
        assert channel.unary_unary("/test.Service/E")(b"x") == b"x"


# --- handlers and interceptors ---


@pytest.mark.parametrize("response", [5, "text", [], object()])
def test_response_of_a_wrong_type_is_an_error(relay_hub: HubThread, response: Any) -> None:
    """A caller of grpc's own server waits for ever."""

    def give(request: bytes, context: Any) -> Any:
        return response

    def give_one_more(request: bytes, context: Any) -> Iterator[Any]:
        yield b"one"
        yield response

    with serving("relay", relay_hub, {"uu:M": give, "us:S": give_one_more}) as channel:
        error = error_of(channel.unary_unary("/test.Service/M"), b"")
        assert (error.code(), error.details()) == (Code.INTERNAL, "Failed to serialize response!")
        seen: list[bytes] = []
        error = error_of(lambda: seen.extend(channel.unary_stream("/test.Service/S")(b"")))
        assert (error.code(), error.details()) == (Code.INTERNAL, "Failed to serialize response!")
        assert seen == [b"one"]


class Broken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Raises, in the way of each kind."""

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        raise ValueError("broken")

    intercept_unary_unary = intercept_unary_stream = _intercept
    intercept_stream_unary = intercept_stream_stream = _intercept


def test_failing_client_interceptor_raises_from_its_call(serve: Serve) -> None:
    with serve({"uu:E": echo}) as plain:
        channel = grpc.intercept_channel(plain, Broken())
        unary = channel.unary_unary("/test.Service/E")
        attempts: list[Callable[[], Any]] = [
            lambda: unary(b""),
            lambda: unary.with_call(b""),
            lambda: unary.future(b"").result(),
            lambda: next(channel.unary_stream("/test.Service/S")(b"")),
            lambda: channel.stream_unary("/test.Service/C")(iter([b""])),
            lambda: next(channel.stream_stream("/test.Service/A")(iter([b""]))),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError, match="broken"):
                attempt()
        assert plain.unary_unary("/test.Service/E")(b"x") == b"x"
