"""Dialling that fails says why in one sentence that names the hub; proxies are passed."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from pathlib import Path

import pytest

from relayrpc.carrier.base import Carrier
from relayrpc.carrier.dial import dial, dial_websocket_url
from relayrpc.carrier.tls import TLSOptions
from relayrpc.carrier.url import parse_url
from relayrpc.errors import ConfigError, ConnectError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.testing.carrier_suite import CarrierRecorder
from tests.support.carriers import Accepted, TLSFiles, dropped, open_door, tls_files
from tests.support.connect_proxy import connect_proxy


__all__ = ["tls_files"]

KINDS = ["grpc", "websocket"]
SCHEMES = {"grpc": "relay", "websocket": "ws"}

pytestmark = pytest.mark.integration


async def dialled(
    kind: str, port: int, *, host: str = "localhost", tls: TLSOptions | None = None, s: str = ""
) -> Carrier:
    url = parse_url(f"{SCHEMES[kind]}{s}://{host}:{port}")
    limits = dataclasses.replace(DEFAULT_LIMITS, connect_timeout_s=10.0)
    return await dial(url, kind=url.first_carrier, tls=tls, limits=limits)


async def complaint(*args: object, **options: object) -> str:
    with pytest.raises(ConnectError) as caught:
        await dialled(*args, **options)  # type: ignore[arg-type] # passed through as they are
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_refused_port_is_told(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = await complaint(kind, port, host="127.0.0.1")
    assert text == f"cannot connect to 127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize("kind", KINDS)
async def test_untrusted_certificate_is_told(kind: str, tls_files: TLSFiles) -> None:
    async with open_door(kind, Accepted(), files=tls_files) as port:
        text = await complaint(kind, port, s="s")
    assert text.startswith(f"cannot connect to localhost:{port}: its certificate is not trusted")


@pytest.mark.parametrize("kind", KINDS)
async def test_wrong_server_name_is_told(kind: str, tls_files: TLSFiles) -> None:
    tls = TLSOptions(ca_file=tls_files.ca_file, server_name="other.example")
    async with open_door(kind, Accepted(), files=tls_files) as port:
        text = await complaint(kind, port, tls=tls, s="s")
    assert text.startswith(f"cannot connect to localhost:{port}: its certificate is not trusted")


@pytest.mark.parametrize("kind", KINDS)
async def test_server_name_may_differ_from_the_host(kind: str, tls_files: TLSFiles) -> None:
    accepted = Accepted()
    async with open_door(kind, accepted, files=tls_files) as port:
        tls = TLSOptions(ca_file=tls_files.ca_file, server_name="localhost")
        carrier = await dialled(kind, port, host="127.0.0.1", tls=tls, s="s")
        assert carrier.is_secure
        other = await accepted.next()
        assert other.is_secure
        await dropped(carrier, other)


@pytest.mark.parametrize("kind", KINDS)
async def test_plaintext_against_tls_is_told(kind: str, tls_files: TLSFiles) -> None:
    async with open_door(kind, Accepted(), files=tls_files) as port:
        text = await complaint(kind, port)
    assert "does that port want TLS" in text


@pytest.mark.parametrize("kind", KINDS)
async def test_tls_against_plaintext_is_told(kind: str, tls_files: TLSFiles) -> None:
    async with open_door(kind, Accepted()) as port:
        text = await complaint(kind, port, tls=TLSOptions(ca_file=tls_files.ca_file), s="s")
    assert "does that port speak TLS?" in text


@pytest.mark.parametrize("kind", KINDS)
async def test_the_other_door_is_told(kind: str) -> None:
    other = {"grpc": "websocket", "websocket": "grpc"}[kind]
    async with open_door(other, Accepted()) as port:
        text = await complaint(kind, port)
    assert {"grpc": "is it the HTTP port?", "websocket": "is it the gRPC port?"}[kind] in text


@pytest.mark.parametrize("kind", KINDS)
async def test_silent_port_is_given_up(kind: str) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, connect_timeout_s=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = parse_url(f"{SCHEMES[kind]}://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConnectError, match="it did not answer in time"):
            await dial(url, kind=url.first_carrier, tls=None, limits=limits)


async def test_unusable_certificate_files_are_named(tmp_path: Path, tls_files: TLSFiles) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for tls, named in (
        (TLSOptions(ca_file=str(tmp_path / "missing.pem")), "missing.pem"),
        (TLSOptions(ca_file=str(bad)), "bad.pem"),
        (TLSOptions(cert_file=str(bad)), "bad.pem"),
        (TLSOptions(cert_file=tls_files.cert_file, key_file=str(bad)), "bad.pem"),
    ):
        for kind in KINDS:
            with pytest.raises(ConfigError, match=named):
                await dialled(kind, 1, tls=tls, s="s")


@pytest.mark.parametrize("is_secure", [False, True])
async def test_websocket_passes_a_proxy(is_secure: bool, tls_files: TLSFiles) -> None:
    accepted = Accepted()
    async with (
        open_door("websocket", accepted, files=tls_files if is_secure else None) as port,
        connect_proxy() as proxy,
    ):
        carrier = await dial_websocket_url(
            f"ws{'s' * is_secure}://localhost:{port}",
            tls=TLSOptions(ca_file=tls_files.ca_file),
            limits=DEFAULT_LIMITS,
            proxy=f"http://127.0.0.1:{proxy.port}",
        )
        assert carrier.is_secure == is_secure
        near, far = CarrierRecorder(carrier), CarrierRecorder(await accepted.next())
        near.start()
        far.start()
        near.send(b"x" * 200_000)
        await far.until_received(1)
        far.send(b"back")
        await near.until_received(1)
        assert near.batches == [b"back"]
        near.carrier.close()
        assert await far.until_ended() is None
        await near.until_ended()
        assert proxy.targets == [f"localhost:{port}"]


async def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = Accepted()
    async with open_door("websocket", accepted) as port, connect_proxy() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        carrier = await dialled("websocket", port)
        assert proxy.targets == [f"localhost:{port}"]
        await dropped(carrier, await accepted.next())


async def test_refusing_proxy_is_told() -> None:
    async with connect_proxy(refusal="403 Forbidden") as proxy:
        with pytest.raises(ConnectError, match="the proxy answered HTTP 403 to CONNECT"):
            await dial_websocket_url(
                "ws://localhost:1",
                tls=None,
                limits=DEFAULT_LIMITS,
                proxy=f"http://127.0.0.1:{proxy.port}",
            )


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_dial_leaves_nothing(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = len(asyncio.all_tasks())
        dialling = asyncio.create_task(dialled(kind, silent.getsockname()[1], host="127.0.0.1"))
        await asyncio.sleep(0)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 # a task has no event
                await asyncio.sleep(0)
