"""A hub's pages over HTTP, and /metrics as read by Prometheus's own parser."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families


__all__ = ["get", "key", "scrape"]


async def get(port: int, path: str, *, method: str = "GET") -> tuple[int, str, str]:
    """Ask a hub's HTTP door; return status, head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    head, _, body = text.partition("\r\n\r\n")
    return int(head.split()[1]), head, body


async def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return values of /metrics by the sample's name and its sorted labels."""
    status, head, body = await get(port, "/metrics")
    assert status == 200
    assert "content-type: text/plain; version=0.0.4" in head.lower()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return where `scrape` has the sample of a metric, `name` without its prefix."""
    return f"relayrpc_{name}", tuple(sorted(labels.items()))
