"""
Real doors with carriers of every kind through them, for tests.

`open_carriers` yields a function that opens one more pair; everything listens on loopback, port 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from relayrpc.carrier.base import Carrier
from relayrpc.carrier.dial import dial
from relayrpc.carrier.tls import TLSOptions, grpc_server_credentials, server_ssl_context
from relayrpc.carrier.url import parse_url
from relayrpc.hub.grpc_door import GRPCDoor
from relayrpc.hub.http_door import HTTPDoor
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.testing import FaultyCarrier, memory_pair
from relayrpc.testing.carrier_suite import CarrierRecorder, OpenPair


class TLSFiles:
    """A certificate authority and a certificate for localhost, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.ca_file = str(folder / "ca.pem")
        self.cert_file = str(folder / "cert.pem")
        self.key_file = str(folder / "key.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        certificate.private_key_pem.write_to_path(self.key_file)
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(self.cert_file, append=True)


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TLSFiles:
    return TLSFiles(tmp_path_factory.mktemp("tls"))


class Accepted:
    """What a door hands on, in order."""

    def __init__(self) -> None:
        self._carriers: asyncio.Queue[Carrier] = asyncio.Queue()

    def __call__(self, carrier: Carrier) -> None:
        self._carriers.put_nowait(carrier)

    async def next(self) -> Carrier:
        async with asyncio.timeout(10):
            return await self._carriers.get()


@contextlib.asynccontextmanager
async def open_door(
    kind: str, accepted: Accepted, *, files: TLSFiles | None = None, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[int]:
    """One listening door, "grpc" or "websocket"; yields its port."""
    door: HTTPDoor | GRPCDoor
    if kind == "grpc":
        credentials = files and grpc_server_credentials(files.cert_file, files.key_file)
        door = GRPCDoor(accepted, limits=limits, credentials=credentials)
    else:
        context = files and server_ssl_context(files.cert_file, files.key_file)
        door = HTTPDoor(accepted, limits=limits, ssl_context=context)
    port = await door.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await door.aclose()


@contextlib.asynccontextmanager
async def open_carriers(kind: str, files: TLSFiles) -> AsyncIterator[OpenPair]:
    """
    Pairs of one kind.

    Args:
        kind: "memory", "faulty", "websocket", "grpc", "websocket+tls" or "grpc+tls".
        files: Certificates for the last two.
    """
    if kind in ("memory", "faulty"):
        yield _open_in_memory(is_faulty=kind == "faulty")
        return
    name, _, tls = kind.partition("+")
    accepted = Accepted()
    async with open_door(name, accepted, files=files if tls else None) as port:
        scheme = {"grpc": "relay", "websocket": "ws"}[name] + ("s" if tls else "")
        url = parse_url(f"{scheme}://localhost:{port}")
        options = TLSOptions(ca_file=files.ca_file) if tls else None

        async def open_pair() -> tuple[Carrier, Carrier]:
            kind = url.first_carrier
            dialled = await dial(url, kind=kind, tls=options, limits=DEFAULT_LIMITS)
            return dialled, await accepted.next()

        yield open_pair


async def dropped(*carriers: Carrier) -> None:
    """Abort carriers that were not started, and wait until they are gone."""
    recorders = [CarrierRecorder(carrier) for carrier in carriers]
    for recorder in recorders:
        recorder.carrier.abort()
        recorder.start()
    for recorder in recorders:
        await recorder.until_ended()


def _open_in_memory(*, is_faulty: bool) -> OpenPair:
    async def open_pair() -> tuple[Carrier, Carrier]:
        loop = asyncio.get_running_loop()
        left, right = memory_pair(limits=DEFAULT_LIMITS, schedule=loop.call_soon)
        if not is_faulty:
            return left, right
        rng = random.Random(1)
        return (
            FaultyCarrier(left, rng=rng, call_later=loop.call_later),
            FaultyCarrier(right, rng=rng, call_later=loop.call_later),
        )

    return open_pair
