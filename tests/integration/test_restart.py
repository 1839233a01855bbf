"""
Goal: the end of a hub ends its calls truthfully, and its peers find the next hub by themselves.

Method: hub processes one after the other on the same ports; SIGKILL for a crash, SIGTERM for a
drain. Hosts and callers stay.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import relayrpc.aio
from tests.integration.peers import RecorderStub, calling, recording
from tests.integration.watched_hub import WatchedHub, watched_hub
from tests.support.ports import held_doors
from tests.support.raw_peer import Door
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until, until_refused


pytestmark = pytest.mark.integration

_DOWN = grpc.ChannelConnectivity.TRANSIENT_FAILURE


@contextmanager
def _hub_again(folder: Path, before: WatchedHub) -> Iterator[WatchedHub]:
    """Another hub where the one before listened."""
    again = folder / "again"
    again.mkdir()
    ports = (f"--grpc=127.0.0.1:{before.grpc_port}", f"--http=127.0.0.1:{before.http_port}")
    with watched_hub(again, *ports) as hub:
        yield hub
        hub.check_unhurt()


def _url(hub: WatchedHub, door: Door) -> str:
    port = hub.grpc_port if door == "grpc" else hub.http_port
    return f"{'relay' if door == 'grpc' else 'ws'}://127.0.0.1:{port}/restarted"


async def test_calls_end_truthfully_when_their_hub_crashes(door: Door, tmp_path: Path) -> None:
    with held_doors() as doors, watched_hub(tmp_path, *doors) as hub:
        url = _url(hub, door)
        async with recording(url, carrier=door) as recorder, calling(url, carrier=door) as stub:
            running = [asyncio.ensure_future(stub.hold(b"%d" % n, timeout=60)) for n in range(20)]
            stream = stub.chat(timeout=60)
            await stream.write(b"stream 0")
            assert await stream.read() == b"stream 0"
            for number in range(20):
                await recorder.was_entered(b"%d" % number)
            hub.running.process.kill()
            await hub.stopped()
            with _hub_again(tmp_path, hub):
                # The new hub knows no link of the old one: what ran there is over.
                ends = await asyncio.gather(*running, return_exceptions=True)
                for end in ends:
                    assert isinstance(end, relayrpc.aio.RpcError)
                    assert end.code() is grpc.StatusCode.UNAVAILABLE
                    assert end.may_have_executed
                with pytest.raises(relayrpc.aio.RpcError) as caught:
                    await stream.read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                for number in range(20):
                    await recorder.was_cancelled(b"%d" % number)
                await stub.served_again()
                assert await stub.echo(b"new", timeout=60) == b"new"
            assert max(recorder.executed[b"%d" % number] for number in range(20)) == 1


@pytest.mark.parametrize("is_made_again", [False, True], ids=["no retries", "retries"])
async def test_call_made_while_there_is_no_hub_is_known_not_to_have_run(
    door: Door, tmp_path: Path, is_made_again: bool
) -> None:
    """
    It waits for the hub that held the link, learns from the next one that it is gone, and may be
    made again there.
    """
    options = [("grpc.enable_retries", int(is_made_again))]
    with held_doors() as doors, watched_hub(tmp_path, *doors) as hub:
        url = _url(hub, door)
        async with (
            recording(url, carrier=door) as recorder,
            calling(url, carrier=door, options=options) as stub,
        ):
            await stub.echo(b"before", timeout=60)
            hub.running.process.kill()
            await hub.stopped()
            await until(lambda: stub.channel.get_state() is _DOWN)
            waiting = asyncio.ensure_future(
                stub.echo(b"meanwhile", timeout=60, wait_for_ready=is_made_again)
            )
            with _hub_again(tmp_path, hub):
                if is_made_again:
                    assert await waiting == b"meanwhile"
                else:
                    with pytest.raises(relayrpc.aio.RpcError) as caught:
                        await waiting
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                    assert not caught.value.may_have_executed
                await stub.served_again()
            assert recorder.executed[b"meanwhile"] == is_made_again


async def test_draining_hub_lets_running_calls_finish(door: Door, tmp_path: Path) -> None:
    with held_doors() as doors, watched_hub(tmp_path, *doors) as hub:
        url = _url(hub, door)
        async with recording(url, carrier=door) as recorder, calling(url, carrier=door) as stub:
            running = asyncio.ensure_future(stub.hold(b"held", timeout=60))
            stream = stub.chat(timeout=60)
            await stream.write(b"stream 0")
            assert await stream.read() == b"stream 0"
            await recorder.was_entered(b"held")
            hub.running.process.send_signal(signal.SIGTERM)
            await until_refused(hub.grpc_port)
            with _hub_again(tmp_path, hub):
                # The ports are free at once: peers open new links for new calls to the next hub,
                # and the old hub finishes what it has.
                await stub.served_again()
                await stream.write(b"stream 1")
                assert await stream.read() == b"stream 1"
                await stream.done_writing()
                assert await stream.read() is grpc.aio.EOF
                recorder.released.set()
                assert await running == b"held"
                assert await hub.stopped() == 0
                assert await stub.echo(b"new", timeout=60) == b"new"
            assert recorder.executed[b"held"] == 1
        hub.check_log()


async def test_plain_client_goes_to_the_next_hub_while_its_call_ends_at_the_last(
    tmp_path: Path,
) -> None:
    at = (("relay-address", "restarted"),)
    with held_doors() as doors, watched_hub(tmp_path, *doors) as hub:
        target = f"127.0.0.1:{hub.grpc_port}"
        async with (
            recording(_url(hub, "websocket")) as recorder,
            calling(_url(hub, "websocket")) as relayed,
            grpc.aio.insecure_channel(target) as channel,
        ):
            stub = RecorderStub(channel)
            running = stub.hold(b"held", metadata=at)
            stream = stub.chat(metadata=at)
            await stream.write(b"stream 0")
            assert await stream.read() == b"stream 0"
            await recorder.was_entered(b"held")
            hub.running.process.send_signal(signal.SIGTERM)
            await until_refused(hub.grpc_port)
            with _hub_again(tmp_path, hub):
                await relayed.served_again()
                assert await stub.echo(b"new", metadata=at, wait_for_ready=True) == b"new"
                assert hub.running.process.poll() is None
                await stream.write(b"stream 1")
                assert await stream.read() == b"stream 1"
                await stream.done_writing()
                assert await stream.read() is grpc.aio.EOF
                recorder.released.set()
                assert await running == b"held"
                assert await hub.stopped() == 0
        hub.check_log()


async def test_draining_hub_ends_what_takes_too_long(door: Door, tmp_path: Path) -> None:
    with watched_hub(tmp_path, "--drain-timeout=0.2") as hub:
        url = _url(hub, door)
        async with recording(url, carrier=door) as recorder, calling(url, carrier=door) as stub:
            running = asyncio.ensure_future(stub.hold(b"held", timeout=60))
            await recorder.was_entered(b"held")
            hub.running.process.send_signal(signal.SIGTERM)
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await running
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.may_have_executed
            await recorder.was_cancelled(b"held")
            assert await hub.stopped() == 0
        hub.check_log()


async def test_draining_hub_does_not_wait_for_a_parked_link(door: Door, tmp_path: Path) -> None:
    """A host that is cut off for good: its caller is told at once, and the hub stops at once."""
    with watched_hub(tmp_path) as hub:
        port = hub.grpc_port if door == "grpc" else hub.http_port
        async with (
            TCPProxy(port) as proxy,
            recording(_url(hub, door).replace(str(port), str(proxy.port)), carrier=door) as host,
            calling(_url(hub, door), carrier=door) as stub,
        ):
            running = asyncio.ensure_future(stub.hold(b"held", timeout=20))
            await host.was_entered(b"held")
            await proxy.aclose()
            hub.running.process.send_signal(signal.SIGTERM)
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await running
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.may_have_executed
            assert await hub.stopped() == 0
        hub.check_log()
