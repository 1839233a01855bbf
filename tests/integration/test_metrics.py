"""
What an operator's tools read from a hub. Goal: /metrics tells what happened, /readyz whether to
send anybody there. Method: real calls, then a scrape over HTTP, read by Prometheus's own parser.
"""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import ANY

import grpc
import pytest

from relayrpc.hub.http_door import Answer, HTTPDoor
from relayrpc.limits import MIB, Limits
from relayrpc.observe.metrics import METRICS
from tests.support.relay import ADDRESS, Stub, peer_links, running_hub, running_relay
from tests.support.scraping import get, key, scrape
from tests.support.until import until


pytestmark = pytest.mark.integration

METHOD = "test.Service/Echo"


async def echo(request: bytes, context: Any) -> bytes:
    if request == b"fail":
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return request


async def test_metrics_tell_of_calls_links_and_bytes() -> None:
    async with running_relay({"uu:Echo": echo}) as relay:
        stub = Stub(relay.channel)
        for _ in range(3):
            await stub.unary_unary("Echo")(b"x")
        with pytest.raises(grpc.RpcError):
            await stub.unary_unary("Echo")(b"fail")
        values = await scrape(relay.hub.http_port)
    called = {"address": ADDRESS, "method": METHOD}
    assert values[key("calls_total", **called, status="OK")] == 3
    assert values[key("calls_total", **called, status="NOT_FOUND")] == 1
    assert values[key("call_duration_seconds_count", **called)] == 4
    assert values[key("call_duration_seconds_bucket", **called, le="+Inf")] == 4
    failed = {"status": "NOT_FOUND", "origin": "host", "may_have_executed": "true"}
    assert values[key("call_failures_total", **failed)] == 1
    assert values[key("links", carrier="websocket")] == 2
    assert values[key("links_opened_total", carrier="websocket")] == 2
    assert values[key("hosts", address=ADDRESS)] == 1
    assert values[key("calls_in_flight", address=ADDRESS)] == 0
    for direction in ("received", "sent"):
        assert values[key("link_bytes_total", carrier="websocket", direction=direction)] > 0
    assert values[key("draining")] == 0


async def test_every_metric_of_the_table_is_on_the_page_and_no_other() -> None:
    async with running_hub() as hub:
        _, _, body = await get(hub.http_port, "/metrics")
    heads = [line.split()[2:4] for line in body.splitlines() if line.startswith("# TYPE")]
    assert sorted(heads) == sorted([name, each.kind] for name, each in METRICS.items())
    assert len(heads) == len({name for name, _ in heads})


async def test_calls_that_nobody_stands_for_make_no_series_of_their_own() -> None:
    async with running_relay({"uu:Echo": echo}) as relay:
        for number in range(3):
            elsewhere = (("relay-address", f"no/where/{number}"),)
            with pytest.raises(grpc.RpcError):
                await Stub(relay.channel).unary_unary("Echo")(b"x", metadata=elsewhere)
            with pytest.raises(grpc.RpcError):
                await Stub(relay.channel).unary_unary(f"NoMethod{number}")(b"x")
        values = await scrape(relay.hub.http_port)
    unserved = {"address": "unserved", "method": "unserved", "status": "UNAVAILABLE"}
    assert values[key("calls_total", **unserved)] == 3
    no_method = {"address": ADDRESS, "method": "unserved", "status": "UNIMPLEMENTED"}
    assert values[key("calls_total", **no_method)] == 3


async def test_metrics_may_be_turned_off() -> None:
    async with running_hub(metrics=False) as hub:
        status, _, _ = await get(hub.http_port, "/metrics")
    assert status == 404


async def test_links_are_counted_where_they_are() -> None:
    async with running_relay({"uu:Echo": echo}) as relay:
        await Stub(relay.channel).unary_unary("Echo")(b"x")
        sessions = relay.hub.sessions
        of_link = sessions.forwarder.router.of_link
        (link,) = (link for link in peer_links(relay.hub) if not of_link(link))
        driver = sessions.driver(link)
        assert driver.carrier is not None
        driver.carrier.abort()
        await until(lambda: link.resumed_count == 1)
        values = await scrape(relay.hub.http_port)
        assert values[key("links", carrier="websocket")] == 2
        assert values[key("links_parked")] == 0
        assert values[key("link_parks_total")] == 1
        assert values[key("link_resumes_total", carrier="websocket")] == 1
        await relay.channel.close()
        await until(lambda: link not in sessions.table.links)
        values = await scrape(relay.hub.http_port)
        assert values[key("links", carrier="websocket")] == 1
        assert values[key("links_ended_total", reason="closed")] == 1


async def test_ready_while_it_listens_and_not_while_it_drains() -> None:
    release = asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        await release.wait()
        return request

    async with running_relay({"uu:Wait": wait}) as relay:
        hub = relay.hub
        assert await get(hub.http_port, "/readyz") == (200, ANY, "ready\n")
        call = Stub(relay.channel).unary_unary("Wait")(b"x")
        await until(lambda: any(link.calls_open_count for link in hub.sessions.table.links))
        # The port closes at once: only who is connected already can ask.
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.http_port)
        writer.write(b"GET /readyz HTTP/1.1\r\n")
        await until(lambda: bool(hub._http._open))
        draining = asyncio.create_task(hub.drain())
        await until(lambda: hub.sessions.is_draining)
        writer.write(b"Host: hub\r\n\r\n")
        answer = (await reader.read()).decode()
        assert answer.startswith("HTTP/1.1 503 ")
        assert answer.endswith("\r\n\r\ndraining\n")
        writer.close()
        release.set()
        assert await call == b"x"
        await relay.server.stop(None)
        await relay.channel.close()
        await draining


async def test_large_answers_to_slow_readers_are_bounded() -> None:
    limits = Limits(scrapes_open_max=1)
    door = HTTPDoor(
        lambda _: None, limits=limits, pages={"/large": lambda: Answer(b"x" * 64 * MIB)}
    )
    port = await door.start("127.0.0.1", 0)
    try:
        _, slow = await asyncio.open_connection("127.0.0.1", port, limit=1)
        slow.write(b"GET /large HTTP/1.1\r\nHost: hub\r\n\r\n")
        await until(lambda: len(door.scrapes) == 1)
        status, _, body = await get(port, "/large")
        assert (status, body) == (503, "too many large answers on their way\n")
        assert (await get(port, "/healthz"))[0] == 200
        slow.transport.abort()
        await until(lambda: not door.scrapes)
        assert (await get(port, "/large", method="HEAD"))[0] == 200
    finally:
        await door.aclose()
