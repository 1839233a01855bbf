"""
Goal: a one-way call is over when the hub holds it, whoever makes it; what the contract says is the
default, and `relay-confirm` says otherwise; default timeouts of contracts hold.

Method: hosts and callers over a real hub on loopback; a plain gRPC client at the hub's own port.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub
from tests.support.session_contract import NOTES
from tests.support.until import until


pytestmark = pytest.mark.integration


class Host:
    """Notes what it is told, once it may."""

    def __init__(self) -> None:
        self.noted: list[bytes] = []
        self.go_on = asyncio.Event()

    async def note(self, request: bytes, context: Any) -> bytes:
        await self.go_on.wait()
        self.noted.append(request)
        if request == b"fail":
            raise ValueError("cannot note it")
        return b""

    async def slow(self, request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def start(self, url: str) -> relayrpc.aio.Server:
        server = relayrpc.aio.server(f"{url}/{ADDRESS}")
        handlers = make_handlers(
            {"uu:Note": self.note, "uu:Slow": self.slow, "uu:Bounded": self.slow}
        )
        server.add_registered_method_handlers(NOTES, handlers)
        await server.start()
        return server


def notes(channel: Any) -> Stub:
    return Stub(channel, NOTES)


async def test_the_caller_does_not_wait_for_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            note = notes(channel).unary_unary("Note")
            for data in (b"1", b"fail", b"3"):
                call = note(data, timeout=30)
                assert await call == b""
                assert await call.code() is grpc.StatusCode.OK
            assert host.noted == []
        # The caller is gone, and what it said is not.
        host.go_on.set()
        await until(lambda: len(host.noted) == 3)
        await server.stop(None)
    assert "handler of /test.sessions.Notes/Note failed" in caplog.text
    assert "call failed" in caplog.text
    assert "address=contoso/test method=test.sessions.Notes/Note status=UNKNOWN" in caplog.text


async def test_confirmation_by_the_host() -> None:
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            note = notes(channel).unary_unary("Note")
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await note(b"1", metadata=[("relay-confirm", "host")], timeout=0.05)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            host.go_on.set()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await note(b"fail", metadata=[("relay-confirm", "host")])
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            for metadata in ([("relay-confirm", "nobody")], [("relay-confirm", "cat")]):
                with pytest.raises(grpc.aio.UsageError, match="relay-confirm"):
                    await note(b"", metadata=metadata)
        await server.stop(0)


async def test_in_a_session_in_order() -> None:
    host = Host()
    host.go_on.set()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        sent = [b"%d" % number for number in range(200)]
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            channel.session() as session,
        ):
            note = notes(session).unary_unary("Note")
            await asyncio.gather(*(note(data) for data in sent))
        assert host.noted == sent
        await server.stop(0)


async def test_blocking_and_plain_grpc_clients() -> None:
    """A client in any language asks for it by metadata: its hub knows no options."""
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)

        def call_blocking() -> bytes:
            with relayrpc.channel(f"{url}/{ADDRESS}") as channel:
                return notes(channel).unary_unary("Note")(b"blocking", timeout=30)

        assert await asyncio.to_thread(call_blocking) == b""
        metadata = [("relay-address", ADDRESS), ("relay-confirm", "hub")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            note = notes(channel).unary_unary("Note")
            assert await note(b"plain", metadata=metadata, timeout=30) == b""
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await note(b"waiting", metadata=metadata[:1], timeout=0.05)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert host.noted == []
        host.go_on.set()
        await until(lambda: sorted(host.noted)[:2] == [b"blocking", b"plain"])
        await server.stop(0)


async def test_default_timeout_of_the_contract() -> None:
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            slow = notes(channel).unary_unary("Slow")
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await slow(b"")
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            call = slow(b"", timeout=1000)
            assert call.time_remaining() > 900
            call.cancel()
        await server.stop(0)


async def test_maximum_timeout_of_the_contract() -> None:
    """The hub ends the call, whatever its caller says, in a session too, and the host is told."""
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        target = f"127.0.0.1:{hub.grpc_port}"
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            grpc.aio.insecure_channel(target) as plain,
            channel.session() as session,
        ):
            metadata = [("relay-address", ADDRESS)]
            calls = [
                notes(channel).unary_unary("Bounded")(b""),
                notes(channel).unary_unary("Bounded")(b"", timeout=60),
                notes(session).unary_unary("Bounded")(b""),
                notes(plain).unary_unary("Bounded")(b"", metadata=metadata),
            ]
            for call in calls:
                assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: not server._contexts)
        await server.stop(0)
