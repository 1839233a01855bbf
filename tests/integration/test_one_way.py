"""
Goal: a one-way call is over when the hub holds it, whoever makes it; what the contract says is the
default, and `relay-confirm` says otherwise; each that is held runs once or is counted as lost;
timeouts of contracts hold.

Method: hosts and callers over a real hub on loopback; a plain gRPC client at the hub's own port.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.limits import DEFAULT_LIMITS
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub
from tests.support.scraping import key, scrape
from tests.support.session_contract import NOTES, SERVICE
from tests.support.until import until


if TYPE_CHECKING:
    from relayrpc.hub.server import Hub


pytestmark = pytest.mark.integration


class Host:
    """Notes what it is told, once it may."""

    def __init__(self) -> None:
        self.noted: list[bytes] = []
        self.go_on = asyncio.Event()
        self.running_count = 0
        self.cancelled = asyncio.Semaphore(0)

    async def note(self, request: bytes, context: Any) -> bytes:
        self.running_count += 1
        await self.go_on.wait()
        self.noted.append(request)
        if request == b"fail":
            raise ValueError("cannot note it")
        return b""

    async def slow(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.release()
        return b""

    async def start(self, url: str, **options: Any) -> relayrpc.aio.Server:
        server = relayrpc.aio.server(f"{url}/{ADDRESS}", **options)
        handlers = make_handlers(
            {"uu:Note": self.note, "uu:Slow": self.slow, "uu:Bounded": self.slow}
        )
        server.add_registered_method_handlers(NOTES, handlers)
        server.add_registered_method_handlers(SERVICE, make_handlers({"uu:Open": self.note}))
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
                with pytest.raises(grpc.aio.UsageError, match="is one of hub, host"):
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


# --- what is lost, and what is not ---


async def lost_by_status(hub: Hub) -> dict[str, int]:
    """What the hub has counted as lost of the one-way calls, at all addresses."""
    lost: Counter[str] = Counter()
    for (name, labels), value in (await scrape(hub.http_port)).items():
        if name == "relayrpc_one_way_lost_total":
            lost[dict(labels)["status"]] += int(value)
    return lost


async def test_each_runs_once_or_is_counted_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    """
    Hosts are full, are killed, refuse what the contract forbids, stop, and do not come; the log
    says what each loss was.
    """
    limits = dataclasses.replace(DEFAULT_LIMITS, retry_after_s=0.05, one_way_wait_s=3.0)
    first, second = Host(), Host()
    sent = [b"%d" % number for number in range(30)]
    async with running_hub(limits=limits) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await first.start(url, maximum_concurrent_rpcs=2)
        metadata = [("relay-address", ADDRESS), ("relay-confirm", "hub")]
        target = f"127.0.0.1:{hub.grpc_port}"
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            grpc.aio.insecure_channel(target) as plain,
        ):
            note = notes(channel).unary_unary("Note")
            for data in (*sent, b"fail"):
                await note(data)
            await until(lambda: first.running_count == 2)
            # Killed with two in hand; what it refused goes to the next one.
            await server.live.aclose()
            await server.stop(0)
            second.go_on.set()
            server = await second.start(url, maximum_concurrent_rpcs=2)
            await until(lambda: len(second.noted) == 29)
            for _ in range(3):
                # Of a contract that is called within sessions only.
                call = Stub(plain, SERVICE).unary_unary("Open")
                assert await call(b"open", metadata=metadata) == b""
            await server.stop(None)
            for _ in range(4):
                await note(b"nobody", wait_for_ready=True)
            expected = {"UNAVAILABLE": 2 + 4, "FAILED_PRECONDITION": 3}
            assert await lost_by_status(hub) != expected
            await until(lambda: _has_lost(hub, expected))
    assert first.noted == []
    assert len(set(second.noted)) == len(second.noted) == len(sent) + 1 - 2
    assert set(second.noted) <= {*sent, b"fail"}
    lines = [line for line in caplog.messages if line.startswith("one-way call lost")]
    assert len(lines) == 9
    assert len([line for line in lines if "may_have_executed=true" in line]) == 2
    assert len([line for line in caplog.messages if line.startswith("call failed")]) == 1


async def _has_lost(hub: Hub, expected: dict[str, int]) -> bool:
    return await lost_by_status(hub) == expected


async def test_losses_beyond_what_is_logged_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            note = notes(channel).unary_unary("Note")
            for _ in range(50):
                await note(b"")
            await until(lambda: host.running_count == 50)
            await server.live.aclose()
            await until(lambda: _has_lost(hub, {"UNAVAILABLE": 50}))
        await server.stop(0)
    lines = [line for line in caplog.messages if "one-way call lost" in line]
    assert len([line for line in lines if line.startswith("one-way call lost")]) == 10
    assert any("records held back count=40" in line for line in lines)


@relayrpc.service(instances="per_call")
class Greeter(greeter_pb2_grpc.GreeterServicer):
    """Waits, and notes whom it has greeted."""

    def __init__(self, go_on: asyncio.Event, greeted: list[str]) -> None:
        self._go_on = go_on
        self._greeted = greeted

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: Any
    ) -> greeter_pb2.HelloReply:
        await self._go_on.wait()
        self._greeted.append(request.name)
        return greeter_pb2.HelloReply()


@pytest.mark.parametrize("others_count", [0, 1])
async def test_what_a_throttle_rejects_is_run_later_or_elsewhere(others_count: int) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, retry_after_s=0.05)
    go_on = asyncio.Event()
    greeted: list[str] = []
    async with running_hub(limits=limits) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        servers = []
        throttles = []
        for _ in range(1 + others_count):
            throttles.append(relayrpc.Throttle(calls=1, on_full="reject"))
            servicer = relayrpc.servicer(
                Greeter, factory=lambda: Greeter(go_on, greeted), throttle=throttles[-1]
            )
            servers.append(relayrpc.aio.server(url))
            greeter_pb2_grpc.add_GreeterServicer_to_server(servicer, servers[-1])
            await servers[-1].start()
        names = [f"{number}" for number in range(10)]
        async with relayrpc.aio.channel(url) as channel:
            greeter = greeter_pb2_grpc.GreeterStub(channel)
            for name in names:
                request = greeter_pb2.HelloRequest(name=name)
                await greeter.SayHello(request, metadata=[("relay-confirm", "hub")])
        await until(lambda: all(throttle.counts["calls"] for throttle in throttles))
        go_on.set()
        await until(lambda: sorted(greeted) == names)
        assert await lost_by_status(hub) == {}
        for server in servers:
            await server.stop(None)


async def test_full_is_told_to_the_caller_and_when_to_try_again() -> None:
    # Room is made before the call is refused for the second time, which would be its end.
    limits = dataclasses.replace(DEFAULT_LIMITS, queue_calls_max=2, retry_after_s=2.0)
    host = Host()
    async with running_hub(limits=limits) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url, slots=1)
        metadata = [("relay-address", ADDRESS), ("relay-confirm", "hub")]
        target = f"127.0.0.1:{hub.grpc_port}"
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            grpc.aio.insecure_channel(target) as plain,
        ):
            note = notes(plain).unary_unary("Note")
            for data in (b"1", b"2", b"3"):
                # One runs, and two wait.
                await note(data, metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await note(b"4", metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert caught.value.details() == (
                "every slot of the hosts at 'contoso/test' is taken, and 2 calls wait already"
            )
            trailing = dict(caught.value.trailing_metadata())
            assert trailing["grpc-retry-pushback-ms"] == "2000"
            assert trailing["relay-may-have-executed"] == "false"
            # A channel of the relay's waits as long as it is asked to.
            call = notes(channel).unary_unary("Note")(b"5")
            refused = key("call_failures_total", status="RESOURCE_EXHAUSTED", origin="hub",
                          may_have_executed="false")  # fmt: skip
            await until(lambda: _has_reached(hub, refused, 2))
            assert not call.done()
            host.go_on.set()
            assert await call == b""
            await until(lambda: len(host.noted) == 4)
        assert host.noted == [b"1", b"2", b"3", b"5"]
        assert await lost_by_status(hub) == {}
        await server.stop(0)


async def _has_reached(hub: Hub, sample: Any, value: float) -> bool:
    return (await scrape(hub.http_port)).get(sample, 0) >= value


async def test_a_call_that_is_tried_again_does_not_wait_for_others_that_wait_longer() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, retry_after_s=0.05)
    host = Host()
    async with running_hub(limits=limits) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        async with relayrpc.aio.channel(f"{url}/elsewhere") as channel:
            await notes(channel).unary_unary("Note")(b"", wait_for_ready=True)
        server = await host.start(url, maximum_concurrent_rpcs=1)
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            for data in (b"1", b"2"):
                await notes(channel).unary_unary("Note")(data)
        await until(lambda: host.running_count == 1)
        host.go_on.set()
        await until(lambda: len(host.noted) == 2)
        await server.stop(0)


# --- timeouts ---


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


async def test_maximum_timeout_of_the_contract_ends_a_one_way_call_at_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host()
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await host.start(url)
        async with (
            relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel,
            channel.session() as session,
        ):
            for each in (channel, session):
                call = notes(each).unary_unary("Bounded")(
                    b"", metadata=[("relay-confirm", "hub")], timeout=60
                )
                assert await call == b""
            for _ in range(2):
                await host.cancelled.acquire()
            await until(lambda: not server._contexts)
            await until(lambda: _has_lost(hub, {"DEADLINE_EXCEEDED": 2}))
        await server.stop(0)
    assert "one-way call lost" in caplog.text


async def test_a_hub_that_stops_says_what_is_lost_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody else could: the caller was told OK, and no host had the call."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            note = notes(channel).unary_unary("Note")
            assert await note(b"1", metadata=[("relay-confirm", "hub")], wait_for_ready=True) == b""
        await hub.aclose()
    (line,) = [line for line in caplog.text.splitlines() if "one-way call lost" in line]
    assert "method=test.sessions.Notes/Note status=UNAVAILABLE" in line
    assert "the hub stops, and no host had the call" in line
