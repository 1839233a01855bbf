"""
Goal: a session's calls go to one host, in order, and its end is told at both ends; nothing starts
silently anew.

Method: hosts and callers over a real hub on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

import relayrpc.aio
from relayrpc.aio import Channel, Session, SessionState
from relayrpc.endpoint.anchor import SESSION_METHOD
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.call import Call
from tests.support import session_contract
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub, running_relay
from tests.support.until import until


pytestmark = pytest.mark.integration


class Host:
    """Handlers that say which host they are on, and what the session's `data` holds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.served: list[bytes] = []
        self.sessions: list[Any] = []
        self.go_on = asyncio.Event()
        self.is_waiting = False

    async def put(self, request: bytes, context: Any) -> bytes:
        self.served.append(request)
        if context.session is not None:
            self.sessions.append(context.session)
            context.session.data.setdefault("requests", []).append(request)
            return self.name.encode() + b":" + b",".join(context.session.data["requests"])
        return self.name.encode()

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.is_waiting = True
        await self.go_on.wait()
        return request

    async def start(
        self, url: str, *, limits: Limits = DEFAULT_LIMITS
    ) -> relayrpc.aio.Server:
        server = relayrpc.aio.server(f"{url}/{ADDRESS}", instance=self.name, limits=limits)
        handlers = make_handlers({"uu:Put": self.put, "uu:Wait": self.wait})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        return server


async def test_calls_go_to_the_host_of_the_first_in_order() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        hosts = [Host(f"host-{number}") for number in range(3)]
        servers = [await host.start(url) for host in hosts]
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            for _ in range(3):
                async with channel.session() as session:
                    put = Stub(session).unary_unary("Put")
                    assert session.state is SessionState.CREATED
                    replies = await asyncio.gather(*(put(b"%d" % n) for n in range(10)))
                    name = session.instance
                    expected = b",".join(b"%d" % n for n in range(10))
                    assert replies[-1] == name.encode() + b":" + expected
                    assert session.state is SessionState.OPENED
                assert session.state is SessionState.CLOSED
        for server in servers:
            await server.stop(0)
        ended = [each for host in hosts for each in host.sessions]
        assert len(ended) == 30
        assert {each.state for each in ended} == {SessionState.CLOSED}


async def test_calls_that_were_made_finish_when_the_block_is_left() -> None:
    """Those too that had to wait until the session was open."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await Host("host").start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            async with channel.session() as session:
                calls = [Stub(session).unary_unary("Put")(b"%d" % number) for number in range(3)]
            assert await asyncio.gather(*calls) == [b"host:0", b"host:0,1", b"host:0,1,2"]
            async with channel.session() as session:
                pass
            with pytest.raises(grpc.aio.UsageError):
                await Stub(session).unary_unary("Put")(b"")
        await server.stop(0)


async def test_who_waits_no_longer_for_the_end_of_a_session_aborts_it() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            call = Stub(session).unary_unary("Wait")(b"")
            await until(lambda: host.is_waiting)
            closing = asyncio.create_task(session.close())
            await until(lambda: session.state is SessionState.CLOSING)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert session.state is SessionState.CLOSED
            assert call.cancelled()
            await until(lambda: not server._contexts and not len(server.sessions))
        await server.stop(0)


async def test_there_is_no_session_within_a_session() -> None:
    async with relayrpc.aio.channel("ws://127.0.0.1:1/a") as channel:
        with pytest.raises(grpc.aio.UsageError, match="not of another session"):
            channel.session().session()


async def test_a_call_after_the_end_says_why() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            async with channel.session() as session:
                put = Stub(session).unary_unary("Put")
                await put(b"1")
            with pytest.raises(grpc.aio.UsageError):
                await put(b"2")
            states: list[SessionState] = []
            session = channel.session()
            session.add_state_callback(states.append)
            await Stub(session).unary_unary("Put")(b"3")
            await server.stop(0)
            await until(lambda: session.state is not SessionState.OPENED)
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(session).unary_unary("Put")(b"4")
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "the session is faulted: the host stopped"
        assert not caught.value.may_have_executed
        assert states == [SessionState.OPENING, SessionState.OPENED, SessionState.FAULTED]


async def test_a_host_that_is_lost_faults_the_session() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host, other = Host("host"), Host("other")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            stub = Stub(session)
            await stub.unary_unary("Put")(b"1")
            running = stub.unary_unary("Wait")(b"2")
            await until(lambda: host.is_waiting)
            other_server = await other.start(url)
            await server.live.aclose()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await running
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await stub.unary_unary("Put")(b"3")
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert session.state is SessionState.FAULTED
            await session.close()
            assert session.state is SessionState.FAULTED
        assert other.served == []
        await other_server.stop(0)
        await server.stop(0)


async def test_a_session_that_is_being_closed_as_its_host_stops_is_closed() -> None:
    """All that it was to do was done."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            idle, session = channel.session(), channel.session()
            for each in (idle, session):
                await Stub(each).unary_unary("Put")(b"1")
            running = Stub(session).unary_unary("Wait")(b"2")
            await until(lambda: host.is_waiting)
            closing = asyncio.create_task(session.close())
            await until(lambda: host.sessions[1].state is SessionState.CLOSING)
            stopping = asyncio.create_task(server.stop(30))
            await until(lambda: idle.state is SessionState.FAULTED)
            host.go_on.set()
            assert await running == b"2"
            await closing
            await stopping
            assert (session.state, session.fault) == (SessionState.CLOSED, "")
            assert host.sessions[1].state is SessionState.CLOSED


async def test_leaving_the_block_after_an_error_hides_nothing() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            with pytest.raises(KeyError, match="mine"):
                async with channel.session() as session:
                    await Stub(session).unary_unary("Put")(b"1")
                    running = Stub(session).unary_unary("Wait")(b"2")
                    raise KeyError("mine")
            assert running.cancelled()
            assert session.state is SessionState.CLOSED
            await until(lambda: host.sessions[0].state is not SessionState.OPENED)
            assert host.sessions[0].state is SessionState.FAULTED
        await server.stop(0)


async def test_a_session_that_nobody_refers_to_is_given_up() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            await Stub(session).unary_unary("Put")(b"1")
            assert len(server.sessions) == 1
            del session
            gc.collect()
            await until(lambda: not server.sessions)
        await server.stop(0)


class PassOn(grpc.aio.ServerInterceptor):
    """Changes nothing, and sees every call that a handler is looked for."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.methods.append(details.method)
        return await continuation(details)


async def test_interceptors_see_the_calls_and_not_the_session() -> None:
    interceptor = PassOn()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, interceptors=[interceptor])
        handlers = make_handlers({"uu:Put": Host("host").put})
        server.add_registered_method_handlers("test.Service", handlers)
        await server.start()
        async with relayrpc.aio.channel(url) as channel, channel.session() as session:
            assert await Stub(session).unary_unary("Put")(b"1") == b"host:1"
        await server.stop(0)
    assert interceptor.methods == ["/test.Service/Put"]


async def test_a_session_of_a_closed_channel() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        channel = relayrpc.aio.channel(f"{url}/{ADDRESS}")
        early, late = channel.session(), channel.session()
        await Stub(early).unary_unary("Put")(b"1")
        running = Stub(early).unary_unary("Wait")(b"2")
        await until(lambda: host.is_waiting)
        await channel.close()
        assert running.cancelled()
        assert early.state is SessionState.CLOSED
        with refused("the session is closed"):
            await Stub(early).unary_unary("Put")(b"3")
        for session in (late, channel.session()):
            with pytest.raises(grpc.aio.UsageError, match=r"Channel is closed\."):
                await Stub(session).unary_unary("Put")(b"3")
        await server.stop(0)


async def test_no_host_ends_the_first_call_as_without_a_session() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(session).unary_unary("Put")(b"1")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == f"no host listens at '{ADDRESS}'"
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(session).unary_unary("Put")(b"2")
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_session_whose_first_call_is_over_is_taken_by_no_host_later() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            states: list[SessionState] = []
            session = channel.session()
            session.add_state_callback(states.append)
            put = Stub(session).unary_unary("Put")
            cancelled = put(b"1", wait_for_ready=True)
            await until(lambda: session.state is SessionState.OPENING)
            late = put(b"2", timeout=0.05)
            cancelled.cancel()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await late
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert states == [SessionState.OPENING, SessionState.FAULTED]
            server = await Host("host").start(url)
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await put(b"3", wait_for_ready=True)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == (
                "the session is faulted: its first call was over before a host had taken it"
            )
            async with channel.session() as other:
                assert await Stub(other).unary_unary("Put")(b"4") == b"host:4"
                assert len(server.sessions) == 1
        await server.stop(0)


async def test_host_ends_a_session_that_is_idle_for_too_long() -> None:
    """A call that runs keeps one, in either direction."""
    callbacks_made: list[asyncio.Future[bytes]] = []
    states: list[SessionState] = []
    is_over = asyncio.Event()

    async def call_back_often(stub: Stub) -> bytes:
        while not is_over.is_set():
            await stub.unary_unary("Put")(b"")
        return b"often"

    class CallingHost(Host):
        async def put(self, request: bytes, context: Any) -> bytes:
            """Begin callbacks before the call is over: the session is at no time idle."""
            stub = context.callback(Stub)
            if request == b"called":
                callback = stub.unary_unary("Wait")(request)
                callbacks_made.append(asyncio.ensure_future(callback))
            elif request == b"often":
                callbacks_made.append(asyncio.create_task(call_back_often(stub)))
                # It has begun by then.
                await asyncio.sleep(0)
            else:
                context.session.add_state_callback(states.append)
            return await super().put(request, context)

    heard = Host("caller")

    def add_callbacks(_: None, server: grpc.aio.Server) -> None:
        server.add_registered_method_handlers(
            "test.Service", make_handlers({"uu:Wait": heard.wait, "uu:Put": heard.put})
        )

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = CallingHost("host")
        server = await host.start(
            url, limits=replace(DEFAULT_LIMITS, session_idle_timeout_s=0.5)
        )
        channel = relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=[(add_callbacks, None)])
        async with (
            channel,
            channel.session() as calling,
            channel.session() as called,
            channel.session() as often,
        ):
            running = Stub(calling).unary_unary("Wait")(b"done")
            await until(lambda: host.is_waiting)
            await Stub(called).unary_unary("Put")(b"called")
            await until(lambda: heard.is_waiting)
            await Stub(often).unary_unary("Put")(b"often")
            idle = channel.session()
            put = Stub(idle).unary_unary("Put")
            await put(b"idle")
            await until(lambda: idle.state is SessionState.FAULTED)
            assert states == [SessionState.FAULTED]
            assert calling.state is called.state is often.state is SessionState.OPENED
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await put(b"2")
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == "the session is faulted: no call ran in it for 0.5 s"
            for each in (host, heard):
                each.go_on.set()
            is_over.set()
            ends = await asyncio.gather(running, *callbacks_made)
            assert ends == [b"done", b"called", b"often"]
        await server.stop(0)


async def test_a_state_callback_that_raises_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(state: SessionState) -> None:
        raise ValueError(state)

    states: list[SessionState] = []
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await Host("host").start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            session.add_state_callback(fail)
            session.add_state_callback(states.append)
            assert await Stub(session).unary_unary("Put")(b"1") == b"host:1"
            await session.close()
            with pytest.raises(KeyError):
                async with channel.session() as session:
                    session.add_state_callback(fail)
                    await Stub(session).unary_unary("Put")(b"2")
                    raise KeyError
            assert session.state is SessionState.CLOSED
        await server.stop(0)
    assert states == [
        SessionState.OPENING,
        SessionState.OPENED,
        SessionState.CLOSING,
        SessionState.CLOSED,
    ]
    assert "a state callback of a session failed" in caplog.text


@pytest.mark.parametrize("turns_count", range(6))
async def test_a_call_that_is_cancelled_as_its_session_opens_does_not_run(
    turns_count: int,
) -> None:
    """Unless it says that it may have."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            call = Stub(session).unary_unary("Put")(b"1")
            opened = asyncio.Event()
            session.add_state_callback(lambda _: opened.set())
            while session.state is not SessionState.OPENED:
                opened.clear()
                await opened.wait()
            for _ in range(turns_count):
                await asyncio.sleep(0)
            call.cancel()
            await Stub(session).unary_unary("Put")(b"2")
            assert call.core.end is not None
            assert not (call.core.end.not_executed and b"1" in host.served)
            assert not session.calls
        await server.stop(0)


@pytest.mark.parametrize("turns_count", range(0, 30, 3))
async def test_a_session_that_is_aborted_as_it_opens_leaves_nothing_at_the_host(
    turns_count: int,
) -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await Host("host").start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            call = Stub(session).unary_unary("Put")(b"1")
            for _ in range(turns_count):
                await asyncio.sleep(0)
            session.abort()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await Stub(channel).unary_unary("Put")(b"2")
            await until(lambda: not len(server.sessions))
            assert session.state is SessionState.CLOSED
        await server.stop(0)


async def test_a_session_may_be_aborted_by_who_is_told_that_it_opens() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await Host("host").start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            session.add_state_callback(lambda _: session.abort())
            call = Stub(session).unary_unary("Put")(b"1")
            assert await call.code() is grpc.StatusCode.CANCELLED
            await Stub(channel).unary_unary("Put")(b"2")
            await until(lambda: not len(server.sessions))
        await server.stop(0)


async def test_a_call_made_as_the_session_opens_goes_behind_those_that_waited() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            put = Stub(session).unary_unary("Put")
            later: list[Any] = []

            def call_more(state: SessionState) -> None:
                if state is SessionState.OPENED:
                    later.append(put(b"2"))

            session.add_state_callback(call_more)
            waiting = [put(b"0"), put(b"1")]
            await until(lambda: later)
            await asyncio.gather(*waiting, *later)
        await server.stop(0)
    assert host.served == [b"0", b"1", b"2"]


async def test_timeouts_of_a_service_config_are_for_calls_and_not_for_sessions() -> None:
    every, put = {"service": "test.Service"}, {"service": "test.Service", "method": "Put"}
    config = {
        "methodConfig": [
            {"name": [every], "timeout": "0.05s"},
            # It opens the session, which takes longer on a busy machine.
            {"name": [put], "timeout": "60s"},
        ]
    }
    options = [("grpc.service_config", json.dumps(config))]
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        channel = relayrpc.aio.channel(f"{url}/{ADDRESS}", options=options)
        async with channel, channel.session() as session:
            await Stub(session).unary_unary("Put")(b"1")
            for _ in range(3):
                # Each takes as long as a session would have had.
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await Stub(session).unary_unary("Wait")(b"2")
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert session.state is SessionState.OPENED
        await server.stop(0)


async def test_closing_a_channel_closes_its_sessions() -> None:
    """At once where they are idle, and when their calls are over, within the grace."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        channel = relayrpc.aio.channel(f"{url}/{ADDRESS}")
        idle, busy = channel.session(), channel.session()
        await Stub(idle).unary_unary("Put")(b"1")
        running = Stub(busy).unary_unary("Wait")(b"2")
        await until(lambda: host.is_waiting)
        closing = asyncio.create_task(channel.close(3600))
        await until(lambda: idle.state is SessionState.CLOSED)
        with pytest.raises(grpc.aio.UsageError):
            await Stub(busy).unary_unary("Put")(b"3")
        host.go_on.set()
        assert await running == b"2"
        await closing
        assert busy.state is SessionState.CLOSED
        await server.stop(0)


async def test_a_hub_that_drains_waits_for_the_calls_of_sessions_and_not_for_idle_ones() -> None:
    async with running_hub(limits=replace(DEFAULT_LIMITS, drain_timeout_s=3600.0)) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        host = Host("host")
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            idle, busy = channel.session(), channel.session()
            await Stub(idle).unary_unary("Put")(b"1")
            running = Stub(busy).unary_unary("Wait")(b"2")
            await until(lambda: host.is_waiting)
            draining = asyncio.create_task(hub.drain())
            await until(lambda: idle.state is SessionState.FAULTED)
            assert idle.fault == "the hub went away"
            assert busy.state is SessionState.OPENED
            host.go_on.set()
            assert await running == b"2"
            await draining
            await until(lambda: busy.state is SessionState.FAULTED)
            assert [each.state for each in host.sessions] == [SessionState.FAULTED]
        await server.stop(0)


@pytest.mark.parametrize("fault", ["", "no more credit"])
async def test_a_handler_closes_its_session_and_may_say_why(fault: str) -> None:
    async def leave(request: bytes, context: Any) -> bytes:
        context.session.close(fault)
        return b"left"

    async with running_relay({"uu:Leave": leave}) as relay:
        session = relay.channel.session()
        assert await Stub(session).unary_unary("Leave")(b"") == b"left"
        over = SessionState.FAULTED if fault else SessionState.CLOSED
        await until(lambda: session.state is over)
        assert session.fault == fault
        with refused(fault or "the session is closed"):
            await Stub(session).unary_unary("Leave")(b"")


# --- what a contract says of sessions ---


async def start_accounts(url: str) -> tuple[relayrpc.aio.Server, list[str]]:
    served: list[str] = []

    def handler(name: str) -> Any:
        async def serve(request: bytes, context: Any) -> bytes:
            served.append(name)
            return request

        return serve

    server = relayrpc.aio.server(f"{url}/{ADDRESS}")
    names = ("Open", "Put", "Wait", "Close")
    handlers = make_handlers({f"uu:{name}": handler(name) for name in names})
    server.add_registered_method_handlers(session_contract.SERVICE, handlers)
    handlers = make_handlers({"uu:Put": handler("alone")})
    server.add_registered_method_handlers(session_contract.ALONE, handlers)
    handlers = make_handlers({"uu:Put": handler("other")})
    server.add_registered_method_handlers(session_contract.CALLS, handlers)
    await server.start()
    return server, served


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(relayrpc.aio.RpcError) as caught:
        yield
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    details = caught.value.details()
    assert all(word in details for word in words), details
    assert not caught.value.may_have_executed


async def test_a_terminating_operation_ends_the_session() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server, served = await start_accounts(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            async with channel.session() as session:
                account = Stub(session, session_contract.SERVICE)
                await account.unary_unary("Open")(b"1")
                await account.unary_unary("Put")(b"2")
                closing = account.unary_unary("Close")(b"3")
                with refused("the session is closing"):
                    await account.unary_unary("Put")(b"4")
                assert await closing == b"3"
                await until(lambda: session.state is SessionState.CLOSED)
                with refused("the session is closed"):
                    await account.unary_unary("Put")(b"5")
            assert session.fault == ""
        assert served == ["Open", "Put", "Close"]
        await server.stop(0)


class Account:
    """Handlers of a contract with sessions; `Wait` and `Close` wait until they may go on."""

    def __init__(self) -> None:
        self.session: Any = None
        self.go_on = asyncio.Event()
        self.running_count = 0
        self.closed_count = 0

    async def Open(self, request: bytes, context: Any) -> bytes:
        self.session = context.session
        return b""

    async def Wait(self, request: bytes, context: Any) -> bytes:
        self.running_count += 1
        try:
            await self.go_on.wait()
        finally:
            self.running_count -= 1
        return b""

    async def Close(self, request: bytes, context: Any) -> bytes:
        self.closed_count += 1
        return await self.Wait(request, context)


@contextlib.asynccontextmanager
async def opened(servicer: Any, **options: Any) -> AsyncIterator[tuple[Session, Stub]]:
    """Serve accounts, `options` are the server's, and open a session with one."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = relayrpc.aio.server(f"{url}/{ADDRESS}", **options)
        handlers = {f"uu:{name}": getattr(servicer, name) for name in ("Open", "Wait", "Close")}
        server.add_registered_method_handlers(session_contract.SERVICE, make_handlers(handlers))
        await server.start()
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            stub = Stub(session, session_contract.SERVICE)
            await stub.unary_unary("Open")(b"")
            yield session, stub
        await server.stop(0)


class RefusesOnce(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Has no handler for the first `Close`."""

    def __init__(self) -> None:
        self._has_refused = False

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        if details.method.endswith("/Close") and not self._has_refused:
            self._has_refused = True
            return None
        return await continuation(details)


@pytest.mark.parametrize("how", ["full", "intercepted", "cancelled", "late"])
async def test_a_session_goes_on_when_what_was_to_end_it_did_not_run(how: str) -> None:
    """Refused by the host, before or behind interceptors, or over before it had left."""
    options: dict[str, Any] = {}
    if how == "full":
        options["maximum_concurrent_rpcs"] = 1
    elif how == "intercepted":
        options["interceptors"] = [RefusesOnce()]
    account = Account()
    async with opened(account, **options) as (session, stub):
        waiting = stub.unary_unary("Wait")(b"")
        await until(lambda: account.running_count)
        close = stub.unary_unary("Close")
        call = close(b"", timeout=1e-9 if how == "late" else None)
        if how == "cancelled":
            call.cancel()
        assert await call.code() is not grpc.StatusCode.OK
        await until(lambda: session.state is SessionState.OPENED)
        assert account.session.state is SessionState.OPENED
        account.go_on.set()
        await waiting
        assert account.closed_count == 0
        await close(b"")
        await until(lambda: session.state is SessionState.CLOSED)
        assert account.session.state is SessionState.CLOSED


class Wraps(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Puts a function of its own around each handler."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def wrapped(request: bytes, context: Any) -> Any:
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(wrapped)


@pytest.mark.parametrize("interceptors", [[], [Wraps()]], ids=["plain", "wrapped"])
async def test_a_session_goes_on_when_a_throttle_refuses_what_was_to_end_it(
    interceptors: list[Any],
) -> None:
    """Though an interceptor's function was called for it."""

    @relayrpc.service(instances="single", concurrency="multiple")
    class One(Account):
        pass

    account = One()
    throttle = relayrpc.Throttle(calls=1, on_full="reject")
    servicer = relayrpc.servicer(One, factory=lambda: account, throttle=throttle)
    async with opened(servicer, interceptors=interceptors) as (session, stub):
        waiting = stub.unary_unary("Wait")(b"")
        await until(lambda: account.running_count)
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.unary_unary("Close")(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: session.state is SessionState.OPENED)
        assert account.session.state is SessionState.OPENED
        account.go_on.set()
        await waiting
        assert session.state is SessionState.OPENED


async def test_a_terminating_operation_may_say_why_the_session_is_over() -> None:
    class Fails(Account):
        async def Close(self, request: bytes, context: Any) -> bytes:
            context.session.close("no more credit")
            return b""

    account = Fails()
    async with opened(account) as (session, stub):
        await stub.unary_unary("Close")(b"")
        await until(lambda: session.state is SessionState.FAULTED)
        assert session.fault == "no more credit"
        assert account.session.state is SessionState.FAULTED


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_session_is_over_when_what_ends_it_may_have_run(how: str) -> None:
    account = Account()
    async with opened(account) as (session, stub):
        call = stub.unary_unary("Close")(b"", timeout=0.1 if how == "late" else None)
        if how == "cancelled":
            await until(lambda: account.running_count)
            call.cancel()
        assert await call.code() is not grpc.StatusCode.OK
        await until(lambda: session.state is SessionState.CLOSED)
        assert account.session.state is SessionState.CLOSED
        with refused("the session is closed"):
            await stub.unary_unary("Wait")(b"")


async def test_what_the_contract_does_not_allow_is_refused_at_the_caller_and_the_host() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server, served = await start_accounts(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            with refused(session_contract.SERVICE, "within a session only"):
                await Stub(channel, session_contract.SERVICE).unary_unary("Put")(b"")
            session = channel.session()
            with refused("Put may not be the first call of a session"):
                await Stub(session, session_contract.SERVICE).unary_unary("Put")(b"")
            assert session.state is SessionState.CREATED
            session = channel.session()
            with refused(f"{session_contract.ALONE} has no sessions"):
                await Stub(session, session_contract.ALONE).unary_unary("Put")(b"")
            await Stub(channel, session_contract.ALONE).unary_unary("Put")(b"")
            # Of a caller that knows nothing of the contract.
            blind = Blind(channel)
            with refused("Put may not be the first call of a session"):
                await blind.call("Put")
            await blind.call("Open")
            closing = asyncio.ensure_future(blind.call("Close"))
            with refused(f"the session was ended by {session_contract.SERVICE}/Close"):
                await asyncio.gather(closing, blind.call("Put"))
            await closing
        assert served == ["alone", "Open", "Close"]
        await server.stop(0)


async def test_each_contract_in_a_session_is_held_to() -> None:
    """Also of services that the session was not opened for, at the caller and at the host."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server, served = await start_accounts(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            await Stub(session, session_contract.CALLS).unary_unary("Put")(b"")
            with refused(f"{session_contract.ALONE} has no sessions"):
                await Stub(session, session_contract.ALONE).unary_unary("Put")(b"")
            account = Stub(session, session_contract.SERVICE)
            with refused("Put may not be the first call of a session"):
                await account.unary_unary("Put")(b"")
            await account.unary_unary("Open")(b"")
            await account.unary_unary("Put")(b"")
            await account.unary_unary("Close")(b"")
            await until(lambda: session.state is SessionState.CLOSED)
            blind = Blind(channel, session_contract.CALLS)
            await blind.call("Put", session_contract.CALLS)
            with refused(f"{session_contract.ALONE} has no sessions"):
                await blind.call("Put", session_contract.ALONE)
            with refused("Put may not be the first call of a session"):
                await blind.call("Put")
            await blind.call("Open")
        assert served == ["other", "Open", "Put", "Close", "other", "Open"]
        await server.stop(0)


class Blind:
    """A caller that makes a session's calls by the wire alone."""

    def __init__(
        self, channel: relayrpc.aio.Channel, service: str = session_contract.SERVICE
    ) -> None:
        self._channel = channel
        self._session = channel.stream_stream(f"/{service}/{SESSION_METHOD}")()

    async def call(self, method: str, service: str = session_contract.SERVICE) -> None:
        await self._session.initial_metadata()
        anchored = Channel(self._channel.live, address=ADDRESS, anchor=self, owns_link=False)
        await anchored.unary_unary(f"/{service}/{method}")(b"")

    is_ready = True

    async def ready(self, method: str, wait_for_ready: bool) -> None:
        """Never called."""

    def call_for(self, method: str, core: Any) -> Call:
        call = self._session.core.call
        assert call is not None
        return call


# --- plain gRPC clients ---


async def test_a_channel_that_does_not_serve_the_callback_opens_no_session() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = relayrpc.aio.server(f"{url}/{ADDRESS}")
        handlers = make_handlers({"uu:Put": Host("host").put})
        server.add_registered_method_handlers(session_contract.CALLING, handlers)
        await server.start()

        def add(service: str, server: grpc.aio.Server) -> None:
            handlers = make_handlers({"uu:Tell": Host("caller").put})
            server.add_registered_method_handlers(service, handlers)

        for service, is_served in (
            ("", False),
            ("test.sessions.Other", False),
            (session_contract.LISTENER, True),
        ):
            callbacks = [(add, service)] if service else []
            async with relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=callbacks) as channel:
                # Without a session the handler finds out.
                await Stub(channel, session_contract.CALLING).unary_unary("Put")(b"1")
                async with channel.session() as session:
                    put = Stub(session, session_contract.CALLING).unary_unary("Put")
                    if is_served:
                        await put(b"2")
                    else:
                        with refused(session_contract.CALLING, session_contract.LISTENER):
                            await put(b"2")
                        assert session.state is SessionState.CREATED
        await server.stop(0)


async def test_a_plain_client_is_told_how_it_gets_a_session() -> None:
    async with running_hub() as hub:
        server, served = await start_accounts(f"ws://127.0.0.1:{hub.http_port}")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Stub(channel, session_contract.SERVICE).unary_unary("Open")(
                    b"", metadata=[("relay-address", ADDRESS)]
                )
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == (
            "test.sessions.Account is called within a session only; make one: channel.session(), "
            "or, in a plain gRPC client, the call /test.sessions.Account/$session, and send the "
            "relay-session that it begins with"
        )
        assert served == []
        await server.stop(0)


async def test_a_plain_client_holds_a_session_by_metadata() -> None:
    """It opens it as a stream, and names it in each call; other connections cannot name it."""
    at = [("relay-address", ADDRESS)]
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        hosts = [Host(f"host-{number}") for number in range(3)]
        servers = [await host.start(url) for host in hosts]
        target = f"127.0.0.1:{hub.grpc_port}"
        async with grpc.aio.insecure_channel(target) as channel:
            session = channel.stream_stream(f"/test.Service/{SESSION_METHOD}")(metadata=at)
            name = dict(await session.initial_metadata())["relay-session"]
            assert len(name) == 32
            within = [("relay-session", name)]
            put = channel.unary_unary("/test.Service/Put")
            replies = [await put(b"%d" % number, metadata=within) for number in range(5)]
            assert replies[-1].endswith(b":0,1,2,3,4")
            assert len([host for host in hosts if host.served]) == 1
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(target, options=options) as stranger:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stranger.unary_unary("/test.Service/Put")(b"", metadata=within)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "no such session" in (caught.value.details() or "")
            await session.done_writing()
            assert await session.code() is grpc.StatusCode.OK
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await put(b"", metadata=within)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        (ended,) = {each for host in hosts for each in host.sessions}
        assert ended.state is SessionState.CLOSED
        for server in servers:
            await server.stop(0)


@pytest.mark.parametrize("messages", [[b""], [b"said"] * 3, [bytes(100_000)] * 3])
async def test_what_a_plain_client_says_in_a_session_s_own_stream_says_nothing(
    messages: list[bytes],
) -> None:
    async with running_hub() as hub:
        server = await Host("host").start(f"ws://127.0.0.1:{hub.http_port}")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            opening = channel.stream_stream(f"/test.Service/{SESSION_METHOD}")
            session = opening(metadata=[("relay-address", ADDRESS)])
            await session.initial_metadata()
            for message in messages:
                await session.write(message)
            assert len(server.sessions) == 1
            await session.done_writing()
            assert await session.code() is grpc.StatusCode.OK
        await server.stop(0)


async def test_a_plain_client_that_aborts_its_session_ends_the_calls_in_it() -> None:
    """Also where it does not cancel each; those beside the session go on."""
    at = [("relay-address", ADDRESS)]
    async with running_hub() as hub:
        host = Host("host")
        server = await host.start(f"ws://127.0.0.1:{hub.http_port}")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            session = channel.stream_stream(f"/test.Service/{SESSION_METHOD}")(metadata=at)
            name = dict(await session.initial_metadata())["relay-session"]
            wait = channel.unary_unary("/test.Service/Wait")
            beside = wait(b"beside", metadata=at)
            within = [wait(b"%d" % n, metadata=[("relay-session", name)]) for n in range(3)]
            await until(lambda: len(server._contexts) == 4)
            session.cancel()
            for call in within:
                assert await call.code() is grpc.StatusCode.CANCELLED
                assert await call.details() == "the client aborted the session"
                assert dict(await call.trailing_metadata())["relay-may-have-executed"] == "true"
            await until(lambda: len(server._contexts) == 1 and not len(server.sessions))
            host.go_on.set()
            assert await beside == b"beside"
        await server.stop(0)


@pytest.mark.parametrize("method", ["Leave", "Report", "Settle"])
async def test_a_terminating_operation_may_be_one_way_or_stream(method: str) -> None:
    """The session is over when its handler has returned, and not before."""
    served: list[bytes] = []
    go_on = asyncio.Event()

    async def put(request: bytes, context: Any) -> bytes:
        served.append(request)
        return request

    async def leave(request: bytes, context: Any) -> bytes:
        await go_on.wait()
        served.append(request)
        return b""

    async def report(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await go_on.wait()
        served.append(request)
        yield b"last"

    async def settle(requests: AsyncIterator[bytes], context: Any) -> bytes:
        served.extend([request async for request in requests])
        return b"settled"

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = relayrpc.aio.server(f"{url}/{ADDRESS}")
        behaviors = {"uu:Open": put, "uu:Put": put, "uu:Leave": leave}
        handlers = make_handlers({**behaviors, "us:Report": report, "su:Settle": settle})
        server.add_registered_method_handlers(session_contract.SERVICE, handlers)
        await server.start()
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            session = channel.session()
            account = Stub(session, session_contract.SERVICE)
            await account.unary_unary("Open")(b"open")
            match method:
                case "Leave":
                    assert await account.unary_unary(method)(b"end") == b""
                case "Report":
                    reports = account.unary_stream(method)(b"end")
                    assert await reports.read() == b"first"
                case _:
                    settling = account.stream_unary(method)()
                    await settling.write(b"end")
            with refused("the session is closing"):
                await account.unary_unary("Put")(b"refused")
            assert session.state is SessionState.CLOSING
            go_on.set()
            match method:
                case "Report":
                    assert await reports.read() == b"last"
                    assert await reports.read() is grpc.aio.EOF
                case "Settle":
                    await settling.done_writing()
                    assert await settling == b"settled"
            await until(lambda: session.state is SessionState.CLOSED)
            assert session.fault == ""
            assert served == [b"open", b"end"]
        await server.stop(0)
