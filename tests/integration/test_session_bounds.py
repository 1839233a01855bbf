"""
Goal: how long closing a session waits, how many there may be, and what one is told when its hub
drains.

Method: hosts and callers over a real hub on loopback, with bounds that are soon met.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.aio import Session, SessionState
from relayrpc.endpoint.anchor import SESSION_METHOD
from relayrpc.limits import DEFAULT_LIMITS, Limits
from tests.support.relay import (
    ADDRESS,
    Relay,
    Stub,
    make_handlers,
    running_hub,
    running_relay,
)
from tests.support.until import until


pytestmark = pytest.mark.integration


class Handlers:
    """`Put` answers, `Wait` when the test says so."""

    def __init__(self) -> None:
        self.running_count = 0
        self.sessions: list[Any] = []
        self.go_on = asyncio.Event()

    async def put(self, request: bytes, context: Any) -> bytes:
        self.sessions.append(context.session)
        return request

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.running_count += 1
        try:
            await self.go_on.wait()
        finally:
            self.running_count -= 1
        return request


@asynccontextmanager
async def relay(
    handlers: Handlers, *, caller: Limits = DEFAULT_LIMITS, host: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Relay]:
    async with running_relay(
        {"uu:Put": handlers.put, "uu:Wait": handlers.wait},
        server_options={"limits": host},
        channel_options={"limits": caller},
    ) as running:
        yield running


async def opened(running: Relay, handlers: Handlers) -> tuple[Session, Any]:
    """Open a session with a call that runs."""
    session = running.channel.session()
    await Stub(session).unary_unary("Put")(b"1")
    waiting = Stub(session).unary_unary("Wait")(b"2")
    await until(lambda: handlers.running_count)
    return session, waiting


@pytest.mark.parametrize("grace", [None, 0.01, 0])
async def test_closing_aborts_what_does_not_finish(grace: float | None) -> None:
    """After the grace that is given, or else after `session_close_timeout_s`."""
    handlers = Handlers()
    limits = replace(DEFAULT_LIMITS, session_close_timeout_s=0.01 if grace is None else 600.0)
    async with relay(handlers, caller=limits) as running:
        session, waiting = await opened(running, handlers)
        await session.close(grace)
        assert waiting.cancelled()
        assert session.state is SessionState.CLOSED
        await until(lambda: not handlers.running_count)
        await until(lambda: handlers.sessions[0].state is SessionState.FAULTED)
        assert not running.server.sessions


@pytest.mark.parametrize("grace", [None, 600.0])
async def test_closing_waits_for_what_runs(grace: float | None) -> None:
    handlers = Handlers()
    async with relay(handlers) as running:
        session, waiting = await opened(running, handlers)
        closing = asyncio.create_task(session.close(grace))
        # A session takes no calls from the moment that it is to be closed.
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.UsageError):
            await Stub(session).unary_unary("Put")(b"3")
        assert not closing.done()
        handlers.go_on.set()
        assert await waiting == b"2"
        await closing
        assert session.state is SessionState.CLOSED
        await until(lambda: handlers.sessions[0].state is SessionState.CLOSED)


async def test_closing_with_a_grace_may_follow_closing_without() -> None:
    """The shorter one counts."""
    handlers = Handlers()
    async with relay(handlers) as running:
        session, waiting = await opened(running, handlers)
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(0)
        await session.close(0)
        await closing
        assert waiting.cancelled()
        assert session.state is SessionState.CLOSED


async def test_a_host_takes_sessions_max_sessions() -> None:
    """One more is refused, not executed; one that ends makes room."""
    handlers = Handlers()
    async with relay(handlers, host=replace(DEFAULT_LIMITS, sessions_max=2)) as running:
        sessions = [running.channel.session() for _ in range(3)]
        for session in sessions[:2]:
            await Stub(session).unary_unary("Put")(b"")
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(sessions[2]).unary_unary("Put")(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "the host has 2 sessions open"
        assert not caught.value.may_have_executed
        assert caught.value.origin == "host"
        assert caught.value.trailing_metadata()["grpc-retry-pushback-ms"] == "1000"
        assert sessions[2].state is SessionState.FAULTED
        assert sessions[2].fault == "the host has 2 sessions open"
        # Calls without a session are none of them.
        await Stub(running.channel).unary_unary("Put")(b"")
        await sessions[0].close()
        async with running.channel.session() as session:
            await Stub(session).unary_unary("Put")(b"")
        await sessions[1].close()


async def test_a_plain_client_is_told_when_to_open_a_session_again() -> None:
    handlers = Handlers()
    async with (
        relay(handlers, host=replace(DEFAULT_LIMITS, sessions_max=1)) as running,
        running.channel.session() as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.hub.grpc_port}") as channel,
    ):
        await Stub(session).unary_unary("Put")(b"")
        opening = channel.stream_stream(f"/test.Service/{SESSION_METHOD}")
        refused = opening(metadata=[("relay-address", ADDRESS)])
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(await refused.trailing_metadata())
        assert trailers["grpc-retry-pushback-ms"] == "1000"
        assert trailers["relay-may-have-executed"] == "false"


async def test_a_session_whose_hub_drains_finishes_what_runs_and_takes_no_more() -> None:
    handlers = Handlers()
    async with relay(handlers) as running:
        session, waiting = await opened(running, handlers)
        link = running.channel.live.link
        draining = asyncio.create_task(running.hub.drain())
        await until(lambda: link.is_draining)
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(session).unary_unary("Put")(b"3")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the hub that has the session goes away"
        assert not caught.value.may_have_executed
        assert session.state is SessionState.OPENED
        assert not draining.done()
        handlers.go_on.set()
        assert await waiting == b"2"
        await draining
        await until(lambda: session.state is SessionState.FAULTED)
        assert session.fault == "the hub went away"
        await until(lambda: handlers.sessions[0].state is SessionState.FAULTED)


async def test_a_session_is_told_that_its_hub_has_stopped() -> None:
    handlers = Handlers()
    limits = replace(DEFAULT_LIMITS, drain_timeout_s=0.01)
    async with running_hub(limits=limits) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url)
        methods = make_handlers({"uu:Put": handlers.put, "uu:Wait": handlers.wait})
        server.add_registered_method_handlers("test.Service", methods)
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            session = channel.session()
            await Stub(session).unary_unary("Put")(b"1")
            waiting = Stub(session).unary_unary("Wait")(b"2")
            await until(lambda: handlers.running_count)
            await hub.drain()
            assert await waiting.code() is grpc.StatusCode.UNAVAILABLE
            await until(lambda: session.state is not SessionState.OPENED)
            assert session.state is SessionState.FAULTED
            assert session.fault == "the hub stopped, 0.01 s after it began to drain"
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(session).unary_unary("Put")(b"2")
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == f"the session is faulted: {session.fault}"
            await until(lambda: handlers.sessions[0].state is SessionState.FAULTED)
        await server.stop(0)
