"""
Goal: a caller whose process stands still changes nothing for the others that are published to; what
becomes of it is what its set says, and once it goes on it hears what is left for it.

Method: a hub and one caller in processes of their own, the caller stopped by SIGSTOP in the midst
of it; a host and two more callers in the test's.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.aio import CallbackSet
from tests.e2e.endings.peer import PeerProcess, peer_process
from tests.e2e.processes import running_hub
from tests.support.relay import ADDRESS, Stub, make_handlers
from tests.support.until import until


pytestmark = pytest.mark.e2e

QUEUE_MAX = 4
COUNT = 40


class Events:
    """A stub of what the callers serve."""

    def __init__(self, channel: Any) -> None:
        self.Tell = channel.unary_unary("/test.Events/Tell")


def _add_listener(heard: list[bytes], server: grpc.aio.Server) -> None:
    async def tell(request: bytes, context: Any) -> bytes:
        heard.append(request)
        return b""

    server.add_registered_method_handlers("test.Events", make_handlers({"uu:Tell": tell}))


async def _watching(url: str, heard: list[bytes]) -> relayrpc.aio.Channel:
    channel = relayrpc.aio.channel(url, callbacks=[(_add_listener, heard)])
    await Stub(channel).unary_unary("Watch")(b"")
    return channel


def _heard_by(process: PeerProcess) -> list[bytes]:
    return [line["call"].encode() for line in process.lines if line["event"] == "heard"]


@pytest.mark.parametrize("carrier", ["grpc", "websocket"])
@pytest.mark.parametrize("on_slow", ["drop_oldest", "drop_newest", "remove"])
async def test_a_caller_that_stands_still_holds_up_nobody(on_slow: Any, carrier: str) -> None:
    callers: CallbackSet[Any] = CallbackSet(Events, queue_max=QUEUE_MAX, on_slow=on_slow)

    async def watch(request: bytes, context: Any) -> bytes:
        callers.add(context)
        return b""

    async def publish(*numbers: int) -> None:
        """Publish one after the other, each once all that are well have heard the one before."""
        for number in numbers:
            callers.publish("Tell", b"%d" % number)
            await until(lambda last=b"%d" % number: all(last in each for each in heard))

    with running_hub() as hub:
        port = hub.grpc_port if carrier == "grpc" else hub.http_port
        url = f"{'relay' if carrier == 'grpc' else 'ws'}://127.0.0.1:{port}/{ADDRESS}"
        server = relayrpc.aio.server(url, carrier=carrier)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Watch": watch}))
        await server.start()
        heard: list[list[bytes]] = [[], []]
        channels = [await _watching(url, each) for each in heard]
        config = {"url": url, "carrier": carrier}
        async with peer_process("tests.e2e.watching_caller", config, ready="ready") as slow:
            slow.tell("watch", call="first")
            await slow.said("watching", "first")
            await publish(0)
            await slow.said("heard", "0")
            await callers.drain()
            slow.send_signal(signal.SIGSTOP)

            await publish(*range(1, COUNT))
            sent = [b"%d" % number for number in range(COUNT)]
            assert heard == [sent, sent]
            # One is on its way to it, so many wait, and there is no more.
            if on_slow == "remove":
                assert len(callers) == 2
                assert callers.dropped_count == QUEUE_MAX + 1
            else:
                assert len(callers) == 3
                assert callers.dropped_count == COUNT - 2 - QUEUE_MAX
            assert callers.failed_count == 0

            slow.send_signal(signal.SIGCONT)
            await callers.drain()
            if on_slow == "remove":
                slow.tell("watch", call="again")
                await slow.said("watching", "again")
            await publish(COUNT)
            await slow.said("heard", str(COUNT))
            got = _heard_by(slow)
            match on_slow:
                case "drop_oldest":
                    assert got == [*sent[:2], *sent[-QUEUE_MAX:], b"%d" % COUNT]
                case "drop_newest":
                    assert got == [*sent[: 2 + QUEUE_MAX], b"%d" % COUNT]
                case _:
                    # What was on its way was cancelled, perhaps as it began.
                    assert [each for each in got if each != b"1"] == [b"0", b"%d" % COUNT]
            await slow.finished()
            await until(lambda: len(callers) == 2)
        await asyncio.gather(*(channel.close() for channel in channels))
        await server.stop(0)
