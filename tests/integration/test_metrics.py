"""
What an operator's tools read from a hub. Goal: /metrics tells what happened, /readyz whether to
send anybody there. Method: real calls, then a scrape over HTTP, read by Prometheus's own parser.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relayrpc.observe.metrics import METRICS
from tests.support.relay import ADDRESS, Stub, running_hub, running_relay


pytestmark = pytest.mark.integration

METHOD = "test.Service/Echo"


async def get(port: int, path: str, *, method: str = "GET") -> tuple[int, str, str]:
    """Return status, head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    head, _, body = text.partition("\r\n\r\n")
    return int(head.split()[1]), head, body


async def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return values by the sample's name and its sorted labels."""
    status, head, body = await get(port, "/metrics")
    assert status == 200
    assert "content-type: text/plain; version=0.0.4" in head.lower()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"relayrpc_{name}", tuple(sorted(labels.items()))


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
