"""
Hubs for tests: one in memory, without sockets, and a real one on free ports of loopback. Servers
and channels are made on either by the same methods, so that one test runs on both.

Owns: the life of such a hub and of what is made on it, and how a test breaks connections. Does not
own: the hub (hub/doorless.py, hub/server.py), what a broken carrier does (carrier/faulty.py).
Source: docs/reference/testing.md.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import relayrpc.aio
from relayrpc.carrier.faulty import FaultyCarrier
from relayrpc.endpoint.dialler import DIALLING, Dialling
from relayrpc.errors import ConnectError, UsageError
from relayrpc.extras import needs_extra
from relayrpc.hub.doorless import DoorlessHub
from relayrpc.hub.local import open_memory_carrier
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.testing.virtual_time import InlineExecutor, VirtualLoop


if TYPE_CHECKING:
    from relayrpc.carrier.base import Carrier
    from relayrpc.carrier.url import CarrierChoice
    from relayrpc.hub.server import Hub


__all__ = ["LoopbackHub", "MemoryHub", "ScratchHub", "memory_hub", "run_hub"]

Peer: TypeAlias = relayrpc.aio.Server | relayrpc.aio.Channel
_Made = TypeVar("_Made", relayrpc.aio.Server, relayrpc.aio.Channel)

_FREE_PORT: Final = "127.0.0.1:0"
_SEED_BITS: Final = 64


class ScratchHub(abc.ABC):
    """
    A hub that lives as long as its `async with`, and with it every server and channel made here.

    Made by `memory_hub()` or `run_hub()`.
    """

    def __init__(
        self,
        ends: contextlib.AsyncExitStack,
        *,
        limits: Limits,
        dialling: Dialling,
        rng: random.Random,
        server_options: dict[str, Any],
    ) -> None:
        """
        Args:
            ends: Ends what is made here, before the hub ends.
            limits: Of the hub, and of what is made here unless that is told otherwise.
            dialling: Leads to the hub.
            rng: Source of what faults draw.
            server_options: Of every server, unless it is told otherwise.
        """
        self.limits = limits
        self._ends = ends
        self._dialling = dialling
        self._rng = rng
        self._server_options = server_options
        # As many as the test makes.
        self._wires: dict[Peer, _Wire] = {}

    def server(self, address: str = "", **options: Any) -> relayrpc.aio.Server:
        """
        Make a server at an address of this hub. Add servicers to it, and start it.

        Args:
            address: "contoso/greeter"; empty: each service at its default address.
            options: Those of relayrpc.aio.server().

        Raises:
            ConfigError: As relayrpc.aio.server().
        """
        options = {**self._server_options, **options}
        server = self._make(relayrpc.aio.server, address, options)
        self._ends.push_async_callback(server.stop, None)
        return server

    def channel(self, address: str = "", **options: Any) -> relayrpc.aio.Channel:
        """
        Make a channel to an address of this hub; it connects with its first call.

        Args:
            address: "contoso/greeter"; empty: each call goes to its service's default address.
            options: Those of relayrpc.aio.channel().

        Raises:
            ConfigError: As relayrpc.aio.channel().
        """
        channel = self._make(relayrpc.aio.channel, address, options)
        self._ends.push_async_callback(channel.close)
        return channel

    def carrier(self, peer: Peer) -> FaultyCarrier:
        """
        Return what a server or channel made here runs over now, to be cut, delayed or stalled.

        After a cut there is another one.

        Raises:
            UsageError: It has none: it was not started, is cut off, or dials.
        """
        self._wire(peer)
        carrier = peer.live.carrier
        if carrier is None:
            raise UsageError(
                "there is no carrier to break: start the server, or await channel_ready()"
            )
        assert isinstance(carrier, FaultyCarrier)
        return carrier

    @contextlib.contextmanager
    def cut_off(self, peer: Peer) -> Iterator[None]:
        """
        Keep a server or channel made here from the hub, inside of the block.

        Its carriers are cut, and dialling fails. Behind the block its link resumes, if the resume
        window is not over.
        """
        wire = self._wire(peer)
        wire.cut_off()
        try:
            yield
        finally:
            wire.is_cut_off = False

    @abc.abstractmethod
    def _url(self, address: str, *, carrier: CarrierChoice) -> str:
        """Write the URL of an address; it is dialled by `dialling`."""

    def _make(self, make: Callable[..., _Made], address: str, options: dict[str, Any]) -> _Made:
        # Pinned, so that a test knows what it runs over from the first call on.
        options = {"carrier": "websocket", "limits": self.limits, **options}
        wire = _Wire(self._dialling, rng=self._rng)
        url = self._url(address, carrier=options["carrier"])
        peer = make(url, dialling=wire.dialling, **options)
        self._wires[peer] = wire
        return peer

    def _wire(self, peer: Peer) -> _Wire:
        if peer not in self._wires:
            raise UsageError("only what this hub's server() and channel() made can be broken")
        return self._wires[peer]


class _Wire:
    """How one server or channel reaches the hub: its carriers can break, and it can be cut off."""

    def __init__(self, dialling: Dialling, *, rng: random.Random) -> None:
        self.is_cut_off = False
        self.dialling = replace(
            dialling,
            dial=self._faulty(dialling.dial),
            dial_websocket_url=self._faulty(dialling.dial_websocket_url),
        )
        self._rng = rng
        # One, or two while the link moves.
        self._carriers: list[FaultyCarrier] = []

    def cut_off(self) -> None:
        self.is_cut_off = True
        for carrier in self._carriers:
            carrier.cut()

    def _faulty(
        self, dial: Callable[..., Awaitable[Carrier]]
    ) -> Callable[..., Awaitable[FaultyCarrier]]:
        async def dial_faulty(*arguments: Any, **options: Any) -> FaultyCarrier:
            self._require_reachable()
            call_later = asyncio.get_running_loop().call_later
            inner = await dial(*arguments, **options)
            carrier = FaultyCarrier(inner, rng=self._rng, call_later=call_later)
            try:
                self._require_reachable()
            except ConnectError:
                carrier.abort()
                raise
            self._carriers = [each for each in self._carriers if not each.is_over]
            self._carriers.append(carrier)
            return carrier

        return dial_faulty

    def _require_reachable(self) -> None:
        if self.is_cut_off:
            raise ConnectError("the test has cut this peer off")


class MemoryHub(ScratchHub):
    """A whole hub without doors: what is made on it reaches it in memory, and nothing else does."""

    def _url(self, address: str, *, carrier: CarrierChoice) -> str:
        # As secure as memory is: call credentials can be tested.
        return f"wss://memory/{address}"


@contextlib.asynccontextmanager
async def memory_hub(*, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[MemoryHub]:
    """
    Run a hub in memory until the block ends; inside of `run_virtual()`, on virtual time.

    Args:
        limits: Of the hub, and of what is made on it unless that is told otherwise.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        # Everything replays from the loop's seed.
        rng = random.Random(loop.rng.getrandbits(_SEED_BITS))
        wall_clock, server_options = loop.time, {"migration_thread_pool": InlineExecutor(loop)}
    else:
        rng = random.Random()
        wall_clock, server_options = time.time, {}
    hub = DoorlessHub(
        limits=limits,
        clock=loop.time,
        wall_clock=wall_clock,
        random=rng,
        token_bytes=rng.randbytes,
    )

    async def dial(*_: object, **__: object) -> Carrier:
        return open_memory_carrier(hub.sessions)

    dialling = Dialling(
        dial=dial,
        dial_websocket_url=dial,
        clock=loop.time,
        random=rng,
        token_hex=lambda count: rng.randbytes(count).hex(),
    )
    try:
        await hub.start()
        async with contextlib.AsyncExitStack() as ends:
            yield MemoryHub(
                ends, limits=limits, dialling=dialling, rng=rng, server_options=server_options
            )
    finally:
        await hub.aclose()


class LoopbackHub(ScratchHub):
    """
    A real hub on 127.0.0.1, with both doors and every gateway.

    Attributes:
        hub: The hub's own object.
    """

    def __init__(self, ends: contextlib.AsyncExitStack, hub: Hub) -> None:
        super().__init__(
            ends,
            limits=hub.config.limits,
            dialling=DIALLING,
            rng=random.Random(),
            server_options={},
        )
        self.hub = hub

    @property
    def grpc_target(self) -> str:
        """Where any gRPC client calls the hub, "127.0.0.1:port"."""
        return f"127.0.0.1:{self.hub.grpc_port}"

    def url(self, address: str = "", *, carrier: CarrierChoice = "auto") -> str:
        """
        Write the URL of an address, for a program that takes one.

        Args:
            address: "contoso/greeter"; empty: a URL without a path.
            carrier: "websocket" gives a ws:// URL; the others a relay:// one.
        """
        secure = "s" if self.hub.config.tls_cert else ""
        if carrier == "websocket":
            return f"ws{secure}://127.0.0.1:{self.hub.http_port}/{address}"
        return f"relay{secure}://{self.grpc_target}/{address}"

    def _url(self, address: str, *, carrier: CarrierChoice) -> str:
        return self.url(address, carrier=carrier)


@contextlib.asynccontextmanager
async def run_hub(**config: Any) -> AsyncIterator[LoopbackHub]:
    """
    Run a hub as `relayrpc hub` does, on free ports of 127.0.0.1, until the block ends.

    Args:
        config: Fields of relayrpc.hub.config.HubConfig, as `limits`.

    Raises:
        ConfigError: The extra [hub] is not installed, or the configuration cannot be used.
        UsageError: The time is virtual.
        OSError: A port cannot be listened on.
    """
    with needs_extra("hub", what="relayrpc.testing.run_hub()"):
        from relayrpc.gateway.full_hub import full_hub
        from relayrpc.hub.config import HubConfig
    if isinstance(asyncio.get_running_loop(), VirtualLoop):
        raise UsageError("virtual time has no sockets for a real hub: use memory_hub()")
    hub = full_hub(HubConfig(**{"grpc": _FREE_PORT, "http": _FREE_PORT, **config}))
    try:
        await hub.start()
        async with contextlib.AsyncExitStack() as ends:
            yield LoopbackHub(ends, hub)
    finally:
        await hub.aclose()
