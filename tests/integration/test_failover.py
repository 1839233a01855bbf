"""
Goal: what a relay promises when a process dies and another one is there: a call that may run twice
goes to the next host, and hosts and callers go to the next hub; blocking programs get the same.

Method: hosts and hubs as processes, killed with SIGKILL in the middle of a call.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import relayrpc
import relayrpc.aio
from tests.integration.peers import calling, host_process, recording
from tests.integration.recorder import SERVICE as RECORDER
from tests.integration.recorder import Recorder
from tests.integration.watched_hub import WatchedHub, watched_hub
from tests.support.idempotent_contract import SERVICE
from tests.support.until import until


pytestmark = pytest.mark.integration

# Whoever is killed is given up soon.
SHORT = "--resume-window=1"


def url_of(hub: WatchedHub) -> str:
    return f"ws://127.0.0.1:{hub.http_port}/failover"


@pytest.mark.parametrize("is_blocking", [False, True], ids=["async", "blocking"])
async def test_idempotent_call_goes_to_another_host_when_its_process_is_killed(
    tmp_path: Path, is_blocking: bool
) -> None:
    method = f"/{SERVICE}/Hold"
    with watched_hub(tmp_path, SHORT) as hub:
        url = url_of(hub)
        second = Recorder()
        server = relayrpc.aio.server(url, priority=1)
        server.add_generic_rpc_handlers((second.handlers(SERVICE),))
        second.released.set()
        async with host_process(url, service=SERVICE) as first:
            await server.start()
            if is_blocking:
                with relayrpc.channel(url) as channel:
                    call = channel.unary_unary(method).future(b"held", timeout=60)
                    await _has_it(hub, url)
                    first.kill()
                    assert await asyncio.to_thread(call.result) == b"held"
            else:
                async with relayrpc.aio.channel(url) as channel:
                    call = channel.unary_unary(method)(b"held", timeout=60)
                    await _has_it(hub, url)
                    first.kill()
                    assert await call == b"held"
        assert second.executed[b"held"] == 1
        await server.stop(None)


async def _has_it(hub: WatchedHub, url: str) -> None:
    """Wait until the first host runs the call: it says so itself."""
    async with relayrpc.aio.channel(url) as channel:
        report = channel.unary_unary(f"/{SERVICE}/Report")
        while not json.loads(await report(b"", timeout=60))["executed"]:
            pass
    hub.check_unhurt()


async def test_peers_go_to_the_next_hub_when_theirs_is_killed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with watched_hub(folders[0], SHORT) as first, watched_hub(folders[1], SHORT) as second:
        urls = [url_of(first), url_of(second)]
        async with recording(urls) as recorder, calling(urls) as stub:
            assert await stub.echo(b"before", timeout=60) == b"before"
            running = asyncio.ensure_future(stub.hold(b"held", timeout=60))
            await recorder.was_entered(b"held")
            first.running.process.kill()
            with pytest.raises(relayrpc.aio.RpcError) as told:
                await running
            assert told.value.may_have_executed
            assert await stub.echo(b"after", timeout=60, wait_for_ready=True) == b"after"
            await until(lambda: stub.channel.live.url.port == second.http_port)
            with relayrpc.channel(urls) as channel:
                echo = channel.unary_unary(f"/{RECORDER}/Echo")
                answer = await asyncio.to_thread(echo, b"blocking", timeout=60)
                assert answer == b"blocking"
            assert recorder.executed[b"held"] == 1
        second.check_unhurt()
