"""
Goal: hosts and callers that know several hubs find each other at one that is there, leave it when
it is lost or goes away, stay there else, and say of each hub why it did not take them.

Method: two hubs in memory on virtual time, which are killed, drained, silent or full.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.carrier.base import Carrier
from relayrpc.carrier.faulty import FaultyCarrier
from relayrpc.carrier.url import RelayURL
from relayrpc.endpoint.dialler import Dialling
from relayrpc.errors import ConnectError, LinkRefusedError
from relayrpc.hub.doorless import DoorlessHub
from relayrpc.hub.local import open_memory_carrier
from relayrpc.limits import Limits
from relayrpc.testing import run_virtual


NAMES = ("first", "second")
URLS = [f"ws://{name}:1/contoso/greeter" for name in NAMES]
LIMITS = Limits(resume_window_s=10.0, drain_timeout_s=20.0)


class Hubs:
    """Hubs by name, as the processes that are made here reach them."""

    def __init__(self, limits: dict[str, Limits]) -> None:
        self._limits = limits
        self.running: dict[str, DoorlessHub] = {}
        # Who is dialled and never answers.
        self.silent: set[str] = set()
        self.dialled: list[str] = []
        self._carriers: dict[str, list[FaultyCarrier]] = {name: [] for name in NAMES}
        self._rng = random.Random(7)
        loop = asyncio.get_running_loop()
        self.dialling = Dialling(
            dial=self._dial,
            dial_websocket_url=self._dial,
            clock=loop.time,
            random=self._rng,
            token_hex=lambda count: self._rng.randbytes(count).hex(),
        )

    async def start(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        hub = DoorlessHub(
            limits=self._limits.get(name, LIMITS),
            clock=loop.time,
            wall_clock=loop.time,
            random=self._rng,
            token_bytes=self._rng.randbytes,
        )
        await hub.start()
        self.running[name] = hub

    async def kill(self, name: str) -> None:
        """End a hub without a word to anybody."""
        hub = self.running.pop(name)
        for carrier in self._carriers[name]:
            carrier.cut()
        await hub.aclose()

    async def drain(self, name: str) -> None:
        await self.running.pop(name).drain()

    async def _dial(self, url: RelayURL, **_: object) -> Carrier:
        name = url.host
        self.dialled.append(name)
        if name in self.silent:
            await asyncio.get_running_loop().create_future()
        if name not in self.running:
            raise ConnectError("connection refused")
        carrier = FaultyCarrier(
            open_memory_carrier(self.running[name].sessions),
            rng=self._rng,
            call_later=asyncio.get_running_loop().call_later,
        )
        self._carriers[name].append(carrier)
        return carrier


@asynccontextmanager
async def running_hubs(*names: str, **limits: Limits) -> AsyncIterator[Hubs]:
    hubs = Hubs(limits)
    for name in names:
        await hubs.start(name)
    try:
        yield hubs
    finally:
        for hub in list(hubs.running.values()):
            await hub.aclose()


async def _wait(request: bytes, _context: Any) -> bytes:
    await asyncio.sleep(float(request or b"0"))
    return request


async def _count(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield str(number).encode()
        await asyncio.sleep(1.0)


def make_server(hubs: Hubs, **options: Any) -> relayrpc.aio.Server:
    server = relayrpc.aio.server(URLS, dialling=hubs.dialling, **{"limits": LIMITS, **options})
    server.add_registered_method_handlers(
        "test.Service",
        {
            "Wait": grpc.unary_unary_rpc_method_handler(_wait),
            "Count": grpc.unary_stream_rpc_method_handler(_count),
        },
    )
    return server


@asynccontextmanager
async def peers(hubs: Hubs) -> AsyncIterator[relayrpc.aio.Channel]:
    """A host, and the channel of a caller."""
    server = make_server(hubs)
    await server.start()
    try:
        async with relayrpc.aio.channel(URLS, dialling=hubs.dialling, limits=LIMITS) as channel:
            yield channel
    finally:
        await server.stop(None)


def wait(channel: relayrpc.aio.Channel, request: bytes = b"", **options: Any) -> Any:
    return channel.unary_unary("/test.Service/Wait")(request, **options)


def hub_of(channel: relayrpc.aio.Channel) -> str:
    return channel.live.url.host


def test_first_that_answers_is_taken() -> None:
    async def main() -> None:
        async with running_hubs("second") as hubs, peers(hubs) as channel:
            assert await wait(channel) == b""
            assert hub_of(channel) == "second"
            # One attempt at each, by host and caller, without a pause.
            assert hubs.dialled == [*NAMES, *NAMES]

    run_virtual(main)


def test_error_names_every_hub_that_was_tried() -> None:
    text = "no hub takes the link: " + "; ".join(
        f"{name}:1: connection refused" for name in NAMES
    )

    async def main() -> None:
        async with running_hubs() as hubs:
            with pytest.raises(ConnectError) as failed:
                await make_server(hubs).start()
            assert str(failed.value) == text
            async with relayrpc.aio.channel(URLS, dialling=hubs.dialling) as channel:
                with pytest.raises(relayrpc.aio.RpcError) as told:
                    await wait(channel)
                assert told.value.code() is grpc.StatusCode.UNAVAILABLE
                assert told.value.details() == text
                assert not told.value.may_have_executed
                # Whoever waits gets the first that comes, by then dialled with pauses.
                waiting = wait(channel, wait_for_ready=True)
                await asyncio.sleep(30.0)
                await hubs.start("second")
                server = make_server(hubs)
                await server.start()
                assert await waiting == b""
                await server.stop(None)

    run_virtual(main)


@pytest.mark.parametrize("is_silent", [False, True], ids=["refusing", "silent"])
def test_lost_hub_is_left_when_its_link_cannot_be_resumed(is_silent: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with running_hubs(*NAMES) as hubs, peers(hubs) as channel:
            running = wait(channel, b"999")
            await asyncio.sleep(1.0)
            before_s = loop.time()
            await hubs.kill("first")
            if is_silent:
                hubs.silent.add("first")
            with pytest.raises(relayrpc.aio.RpcError) as told:
                await running
            assert told.value.may_have_executed
            assert loop.time() - before_s == pytest.approx(LIMITS.resume_window_s, abs=0.5)
            assert await wait(channel, wait_for_ready=True) == b""
            assert loop.time() - before_s == pytest.approx(LIMITS.resume_window_s, abs=1.0)
            assert hub_of(channel) == "second"
            # And stays there when the first is back.
            hubs.silent.clear()
            await hubs.start("first")
            await asyncio.sleep(600.0)
            assert await wait(channel) == b""
            assert hub_of(channel) == "second"

    run_virtual(main)


def test_call_that_waits_for_a_lost_hub_is_made_at_the_next() -> None:
    async def main() -> None:
        async with running_hubs(*NAMES) as hubs, peers(hubs) as channel:
            await wait(channel)
            await hubs.kill("first")
            await asyncio.sleep(1.0)
            assert await wait(channel, b"1") == b"1"
            assert hub_of(channel) == "second"

    run_virtual(main)


def test_short_break_does_not_change_the_hub() -> None:
    async def main() -> None:
        async with running_hubs(*NAMES) as hubs, peers(hubs) as channel:
            counting = channel.unary_stream("/test.Service/Count")(b"9")
            seen = []
            async for number in counting:
                seen.append(int(number))
                if len(seen) == 3:
                    for carrier in hubs._carriers["first"]:
                        carrier.cut()
            assert seen == list(range(9))
            assert hub_of(channel) == "first"
            assert set(hubs.dialled) == {"first"}

    run_virtual(main)


def test_draining_hub_is_left_at_once_and_finishes_what_it_has() -> None:
    async def main() -> None:
        async with running_hubs(*NAMES) as hubs, peers(hubs) as channel:
            counting = channel.unary_stream("/test.Service/Count")(b"9")
            assert await anext(counting.__aiter__()) == b"0"
            draining = asyncio.ensure_future(hubs.drain("first"))
            await asyncio.sleep(1.0)
            assert hub_of(channel) == "second"
            assert await wait(channel) == b""
            assert [int(number) async for number in counting] == list(range(1, 9))
            await draining

    run_virtual(main)


def test_full_hub_is_passed_over() -> None:
    """It answers, and says no; the call that found that out is made again at the next."""

    async def main() -> None:
        # One link is the hub's own.
        full = replace(LIMITS, links_max=1)
        async with running_hubs(*NAMES, first=full) as hubs, peers(hubs) as channel:
            assert await wait(channel) == b""
            assert hub_of(channel) == "second"

    run_virtual(main)


def test_refusals_of_all_hubs_are_final_and_named() -> None:
    """Two processes with one instance id, which take each other's place too often."""

    async def main() -> None:
        limits = replace(LIMITS, takeovers_max=0)
        async with running_hubs(*NAMES, first=limits, second=limits) as hubs:
            server = make_server(hubs, instance="one")
            await server.start()
            await hubs.kill("first")
            await asyncio.sleep(20.0)
            await hubs.start("first")
            other = make_server(hubs, instance="one")
            await other.start()
            third = make_server(hubs, instance="one", keep_trying=True)
            with pytest.raises(LinkRefusedError) as refused:
                await third.start()
            assert str(refused.value).startswith("no hub takes the link: ")
            for name in NAMES:
                assert f"{name}:1: the peer closed the link: instance 'one'" in str(refused.value)
            await other.stop(None)
            await server.stop(None)

    run_virtual(main)
