"""
Goal: a task that is cancelled at any await of a call, or of the life of a channel or server, leaves
nothing behind, at the caller, the hub or the host.

Method: each scenario runs again and again on virtual time, cancelled when it suspends for the first
time, the second, and so on, until it gets through. After each run nothing may be left.
"""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.link.call import Call
from relayrpc.testing import MemoryHub, memory_hub, run_virtual
from tests.support.relay import Stub, make_handlers


ADDRESS = "a"
# What is sent on its way has arrived; what is dropped is forgotten.
SETTLE_S = 60.0
LARGE = bytes(300_000)

Scenario = Callable[[relayrpc.aio.Channel], Awaitable[object]]


# --- the host ---


async def echo(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0.1)
    return request


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    await context.send_initial_metadata((("i", "1"),))
    for number in range(3):
        await asyncio.sleep(0.1)
        yield b"%d" % number


async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"%d" % sum([len(request) async for request in requests])


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def plain(request: bytes, context: Any) -> bytes:
    return request


BEHAVIORS = {"uu:E": echo, "us:C": count, "su:S": collect, "ss:T": chat, "uu:P": plain}


async def serve(hub: MemoryHub) -> relayrpc.aio.Server:
    server = hub.server(ADDRESS)
    server.add_registered_method_handlers("test.Service", make_handlers(BEHAVIORS))
    await server.start()
    return server


# --- what a caller does ---


async def requests() -> AsyncIterator[bytes]:
    for request in (b"a", LARGE, b"c"):
        await asyncio.sleep(0.1)
        yield request


async def unary(channel: relayrpc.aio.Channel) -> None:
    assert await Stub(channel).unary_unary("E")(b"x", timeout=10) == b"x"


async def unary_large(channel: relayrpc.aio.Channel) -> None:
    assert await Stub(channel).unary_unary("E")(LARGE) == LARGE


async def unary_plain(channel: relayrpc.aio.Channel) -> None:
    assert await Stub(channel).unary_unary("P")(b"x") == b"x"


async def unary_asked_about(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).unary_unary("E")(b"x", wait_for_ready=True)
    try:
        await call.wait_for_connection()
        assert await call.initial_metadata() == ()
        assert await call.code() is grpc.StatusCode.OK
        assert await call.trailing_metadata() == ()
        assert await call == b"x"
    finally:
        # Asking does not own the call.
        call.cancel()


async def stream_iterated(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).unary_stream("C")(b"")
    assert [message async for message in call] == [b"0", b"1", b"2"]


async def stream_read(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).unary_stream("C")(b"", timeout=10)
    assert await call.initial_metadata() == (("i", "1"),)
    while await call.read() is not grpc.aio.EOF:
        pass


async def requests_iterated(channel: relayrpc.aio.Channel) -> None:
    assert await Stub(channel).stream_unary("S")(requests()) == b"%d" % (len(LARGE) + 2)


async def requests_written(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).stream_unary("S")()
    for _ in range(3):
        await call.write(LARGE)
    await call.done_writing()
    assert await call == b"%d" % (3 * len(LARGE))


async def both_written(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).stream_stream("T")()
    for request in (b"a", LARGE):
        await call.write(request)
        assert await call.read() == request
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def both_iterated(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).stream_stream("T")(requests())
    assert [len(message) async for message in call] == [1, len(LARGE), 1]


async def ready(channel: relayrpc.aio.Channel) -> None:
    await channel.channel_ready()


async def closed_with_grace(channel: relayrpc.aio.Channel) -> None:
    call = Stub(channel).unary_unary("E")(b"x")
    await channel.close(10)
    assert await call == b"x"


SCENARIOS: list[Scenario] = [
    unary, unary_large, unary_plain, unary_asked_about, stream_iterated, stream_read,
    requests_iterated, requests_written, both_written, both_iterated, ready, closed_with_grace,
]  # fmt: skip


# --- kinds of channels ---


class Pass:
    """Goes on, after a while."""

    async def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        await asyncio.sleep(0.1)
        return await continuation(details, request)


class UnaryUnaryPass(Pass, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    intercept_unary_unary = Pass._intercept


class UnaryStreamPass(Pass, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    intercept_unary_stream = Pass._intercept


class StreamUnaryPass(Pass, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    intercept_stream_unary = Pass._intercept


class StreamStreamPass(Pass, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    intercept_stream_stream = Pass._intercept


class Token(grpc.AuthMetadataPlugin):  # type: ignore[misc]  # grpc has no types
    """Answers, after a while."""

    def __call__(self, context: Any, callback: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, callback, (("authorization", "token"),), None)


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "intercepted": lambda: {
        "interceptors": [UnaryUnaryPass(), UnaryStreamPass(), StreamUnaryPass(), StreamStreamPass()]
    },
    "with credentials": lambda: {"call_credentials": relayrpc.call_credentials(Token())},
}


# --- cancelling ---


@types.coroutine
def cancelled_at(step: int, running: Coroutine[Any, Any, object]) -> Generator[Any, Any, int]:
    """
    Run a coroutine, and cancel the task it runs in when it suspends for the `step`-th time.

    Returns:
        How often it suspended, when it came through.
    """
    steps = 0
    resume: Callable[[], Any] = lambda: running.send(None)  # noqa: E731  # it is replaced below
    while True:
        try:
            waited_for = resume()
        except StopIteration:
            return steps
        steps += 1
        if steps == step:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            yield waited_for
        except BaseException as exc:
            resume = lambda exc=exc: running.throw(exc)  # type: ignore[misc]  # noqa: E731
        else:
            resume = lambda: running.send(None)  # noqa: E731


async def try_at(step: int, running: Coroutine[Any, Any, object]) -> bool:
    """Say whether it came through before it was to be cancelled; else it was cancelled."""

    async def run() -> int:
        return await cancelled_at(step, running)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        assert task.result() < step, "the cancellation was swallowed"
        return True
    return False


async def calls_left() -> int:
    for _ in range(3):
        # Generators that are collected are closed by the loop, and may then hold the last of it.
        gc.collect()
        await asyncio.sleep(SETTLE_S)
    return sum(type(each) is Call for each in gc.get_objects())


async def check_everywhere(
    hub: MemoryHub, server: relayrpc.aio.Server, scenario: Scenario, options: dict[str, Any]
) -> int:
    """Cancel a scenario at every step; returns how many there were."""
    tasks = len(asyncio.all_tasks())
    step = 0
    while True:
        step += 1
        channel = hub.channel(ADDRESS, **options)
        came_through = await try_at(step, scenario(channel))  # type: ignore[arg-type]  # coroutines all
        # The channel is as good as before.
        if scenario is not closed_with_grace:
            assert await Stub(channel).unary_unary("P")(b"after", timeout=10) == b"after"
        await asyncio.sleep(SETTLE_S)
        assert not channel.calls, step
        await channel.close()
        assert not server._contexts, step
        await asyncio.sleep(SETTLE_S)
        assert len(asyncio.all_tasks()) == tasks, step
        if came_through:
            return step


# A channel that closes starts no call, as grpc.aio's: not one either that an interceptor holds.
CASES = [
    pytest.param(scenario, kind, id=f"{scenario.__name__}-{kind}")
    for scenario in SCENARIOS
    for kind in KINDS
    if (scenario, kind) != (closed_with_grace, "intercepted")
]


@pytest.mark.parametrize(("scenario", "kind"), CASES)
def test_caller_may_be_cancelled_anywhere(scenario: Scenario, kind: str) -> None:
    async def main() -> None:
        async with memory_hub() as hub:
            server = await serve(hub)
            before = await calls_left()
            steps = await check_everywhere(hub, server, scenario, KINDS[kind]())
            assert steps > 1
            assert await calls_left() == before

    run_virtual(main)


def test_server_may_be_cancelled_anywhere_as_it_starts_and_stops() -> None:
    async def start_and_stop(server: relayrpc.aio.Server) -> None:
        server.add_registered_method_handlers("test.Service", make_handlers(BEHAVIORS))
        await server.start()
        await server.stop(10)

    async def main() -> None:
        async with memory_hub() as hub:
            tasks = len(asyncio.all_tasks())
            step, came_through = 0, False
            while not came_through:
                step += 1
                server = hub.server(ADDRESS)
                came_through = await try_at(step, start_and_stop(server))
                await server.stop(None)
                await asyncio.sleep(SETTLE_S)
                assert len(asyncio.all_tasks()) == tasks, step
            assert step > 2

    run_virtual(main)


def test_waiting_for_termination_may_be_cancelled_anywhere() -> None:
    async def main() -> None:
        async with memory_hub() as hub:
            server = await serve(hub)
            tasks = len(asyncio.all_tasks())
            assert not await try_at(1, server.wait_for_termination())
            await asyncio.sleep(SETTLE_S)
            assert len(asyncio.all_tasks()) == tasks
            # It serves on.
            await unary(hub.channel(ADDRESS))

    run_virtual(main)
