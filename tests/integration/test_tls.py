"""
Goal: both doors of a TLS hub serve who trusts its certificate, and tell the others in one sentence.

Method: a hub process with a test authority's certificate; endpoints with the right authority, with
another one, with none, under a wrong name, and without TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import relayrpc.aio
from relayrpc.aio import TLSOptions
from relayrpc.endpoint.channel import Channel
from relayrpc.errors import ConnectError
from tests.integration.peers import calling, recording
from tests.integration.watched_hub import WatchedHub, watched_hub
from tests.support.carriers import TLSFiles, tls_files
from tests.support.raw_peer import Door
from tests.support.until import until


__all__ = ["tls_files"]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def hub(tls_files: TLSFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedHub]:
    flags = (f"--tls-cert={tls_files.cert_file}", f"--tls-key={tls_files.key_file}")
    with watched_hub(tmp_path_factory.mktemp("hub"), *flags) as hub:
        yield hub
        hub.check_unhurt()


@pytest.fixture
def strangers(tmp_path: Path) -> TLSFiles:
    """An authority that has nothing to do with the hub's certificate."""
    return TLSFiles(tmp_path)


def _url(hub: WatchedHub, door: Door, *, is_secure: bool = True) -> str:
    scheme = {"grpc": "relay", "websocket": "ws"}[door] + "s" * is_secure
    port = hub.grpc_port if door == "grpc" else hub.http_port
    return f"{scheme}://127.0.0.1:{port}/secured"


async def test_calls_go_through_a_tls_hub(
    hub: WatchedHub, door: Door, tls_files: TLSFiles
) -> None:
    tls = TLSOptions(ca_file=tls_files.ca_file)
    url = _url(hub, door)
    async with (
        recording(url, carrier=door, tls=tls) as recorder,
        calling(url, carrier=door, tls=tls) as stub,
    ):
        names = [b"%d" % number for number in range(200)]
        assert await asyncio.gather(*[stub.echo(name, timeout=60) for name in names]) == names
        sent = bytes(3 * 1024 * 1024)
        assert len(await stub.exchange(b"5000000 " + sent, timeout=60)) == 5_000_000
        call = stub.chat(_lines(), timeout=60)
        assert [line async for line in call] == [b"line %d" % number for number in range(100)]
        assert set(recorder.executed.values()) == {1}


async def _lines():  # type: ignore[no-untyped-def]  # an async generator of bytes
    for number in range(100):
        yield b"line %d" % number


async def test_link_moves_from_tls_to_tls(hub: WatchedHub, tls_files: TLSFiles) -> None:
    tls = TLSOptions(ca_file=tls_files.ca_file)
    url = _url(hub, "grpc")
    async with recording(url, tls=tls), calling(url, tls=tls) as stub:
        await stub.echo(b"one", timeout=60)
        channel = stub.channel
        assert isinstance(channel, Channel)
        await until(lambda: channel.live.carrier_kind == "websocket")
        assert await stub.echo(b"two", timeout=60) == b"two"


@pytest.mark.parametrize("authority", ["strangers", "system"])
async def test_endpoint_does_not_trust_another_authority(
    authority: str, hub: WatchedHub, door: Door, strangers: TLSFiles
) -> None:
    tls = TLSOptions(ca_file=strangers.ca_file) if authority == "strangers" else None
    error = await _refusal(_url(hub, door), tls)
    assert "certificate is not trusted" in error


async def test_endpoint_does_not_trust_another_name(
    hub: WatchedHub, door: Door, tls_files: TLSFiles
) -> None:
    tls = TLSOptions(ca_file=tls_files.ca_file, server_name="relay.example")
    error = await _refusal(_url(hub, door), tls)
    assert "certificate is not trusted" in error


async def test_plain_endpoint_is_told_to_use_tls(hub: WatchedHub, door: Door) -> None:
    error = await _refusal(_url(hub, door, is_secure=False), None)
    assert "does that port want TLS" in error


async def test_tls_endpoint_at_a_plain_hub_is_told(
    door: Door, tls_files: TLSFiles, tmp_path: Path
) -> None:
    with watched_hub(tmp_path) as plain:
        error = await _refusal(_url(plain, door), TLSOptions(ca_file=tls_files.ca_file))
        assert "does that port speak TLS" in error
        plain.check_unhurt()


async def test_caller_is_told_that_the_certificate_is_not_trusted(
    hub: WatchedHub, door: Door, strangers: TLSFiles
) -> None:
    """A call's own end carries the reason, and that nothing ran."""
    tls = TLSOptions(ca_file=strangers.ca_file)
    async with calling(_url(hub, door), carrier=door, tls=tls) as stub:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.echo(b"one", timeout=60)
        assert "certificate is not trusted" in str(caught.value.details())
        assert not caught.value.may_have_executed


async def _refusal(url: str, tls: TLSOptions | None) -> str:
    """What a server that cannot connect says: one line that names the hub."""
    with pytest.raises(ConnectError) as caught:
        async with recording(url, tls=tls):
            pytest.fail("it connected")
    text = str(caught.value)
    assert "127.0.0.1:" in text
    assert "\n" not in text
    return text
