"""
Host and caller of sessions, callbacks and one-way calls: `python -m benchmarks.duplex_child ROLE
CARRIER URL`.

Owns: what both serve and measure. The clocks are the caller's, but for callbacks, which the host
makes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import grpc
import grpc.aio

from benchmarks.child import run, serve_commands
from benchmarks.workloads import ECHO_BYTES, Workloads, closed_loop, quantile
from relayrpc import aio
from relayrpc.limits import DEFAULT_LIMITS, MIB


if TYPE_CHECKING:
    from benchmarks.child import Command


__all__ = ["LIMITS", "main"]

SERVICE: Final = "benchmarks.v1.Duplex"
EVENTS: Final = "benchmarks.v1.Events"
ONE_WAY: Final = (("relay-confirm", "hub"),)
CALLBACK_QUEUE_MAX: Final = 64
OPENING_MAX: Final = 32
POLL_S: Final = 0.001
LIMITS: Final = replace(
    DEFAULT_LIMITS, sessions_max=12_000, calls_open_max=12_000, link_budget_bytes=64 * MIB
)
"""Of every process here: a session is a call of its host's link."""


class Events:
    """A stub of what callers serve."""

    def __init__(self, channel: Any) -> None:
        self.Tell = channel.unary_unary(f"/{EVENTS}/Tell")


class Host:
    """Serves echoes, calls back, and publishes."""

    def __init__(self, carrier: Literal["websocket", "grpc"], url: str) -> None:
        self._server = aio.server(url, carrier=carrier, limits=LIMITS)
        self._callers = aio.CallbackSet(Events, queue_max=CALLBACK_QUEUE_MAX)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, name))
            for name in ("Echo", "CallBack", "Watch")
        }
        self._server.add_registered_method_handlers(SERVICE, handlers)

    async def start(self) -> None:
        """Dial the hub."""
        await self._server.start()

    async def Echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def CallBack(self, request: bytes, context: Any) -> bytes:
        """Call back, one at a time, for as many seconds; answers the median in microseconds."""
        tell = context.callback(Events).Tell
        times_us = array("d")
        until_s = time.perf_counter() + float(request)
        payload = bytes(ECHO_BYTES)
        while (before_s := time.perf_counter()) < until_s:
            await tell(payload, timeout=10)
            times_us.append((time.perf_counter() - before_s) * 1e6)
        return b"%f" % quantile(sorted(times_us), 0.5)

    async def Watch(self, request: bytes, context: Any) -> bytes:
        self._callers.add(context)
        return b""

    async def publish(self, *, window_s: float, callers_count: int) -> dict[str, float]:
        """Publish whenever `callers_count` have heard what was published before, for so long."""
        callers = self._callers
        payload = bytes(ECHO_BYTES)
        delivered_before = callers.delivered_count
        count = 0
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < window_s:
            callers.publish("Tell", payload)
            count += 1
            # Those who never hear are not waited for; nothing tells when the others have.
            while callers.delivered_count - delivered_before < count * callers_count:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        elapsed_s = time.perf_counter() - began_s
        return {"events_per_s": count * callers_count / elapsed_s}


class Caller:
    """Calls, holds sessions, hears."""

    def __init__(self, carrier: Literal["websocket", "grpc"], url: str) -> None:
        self._carrier = carrier
        self._url = url
        self._channel = self._open(is_stuck=False)
        self._held: list[object] = []

    def _open(self, *, is_stuck: bool) -> aio.Channel:
        async def tell(request: bytes, context: Any) -> bytes:
            if is_stuck:
                await asyncio.Event().wait()
            return request

        def add(_: None, server: grpc.aio.Server) -> None:
            handler = grpc.unary_unary_rpc_method_handler(tell)
            server.add_registered_method_handlers(EVENTS, {"Tell": handler})

        return aio.channel(
            self._url, carrier=self._carrier, callbacks=[(add, None)], limits=LIMITS
        )

    def commands(self) -> dict[str, Command]:
        """By name, as harness.Worker.run takes them."""
        return {
            "session_echoes": self.session_echoes,
            "session_latencies": self.session_latencies,
            "echoes": partial(self._echoes, ()),
            "one_way": partial(self._echoes, ONE_WAY),
            "latencies": self.latencies,
            "callbacks": self.callbacks,
            "hold_sessions": self.hold_sessions,
            "watch": self.watch,
        }

    def _echo(self, channel: Any) -> Any:
        return partial(channel.unary_unary(f"/{SERVICE}/Echo"), bytes(ECHO_BYTES), timeout=10)

    async def session_echoes(self, **arguments: Any) -> dict[str, float]:
        """Echoes within one session: see `closed_loop`."""
        async with self._channel.session() as session:
            return await closed_loop(self._echo(session), **arguments)

    async def session_latencies(self, **arguments: Any) -> dict[str, float]:
        """Each of many echoes within one session: see `Workloads.latencies`."""
        async with self._channel.session() as session:
            return await _latencies(session, arguments)

    async def _echoes(
        self, metadata: tuple[tuple[str, str], ...], **arguments: Any
    ) -> dict[str, float]:
        return await closed_loop(partial(self._echo(self._channel), metadata=metadata), **arguments)

    async def latencies(self, **arguments: Any) -> dict[str, float]:
        """Each of many echoes: see `Workloads.latencies`."""
        return await _latencies(self._channel, arguments)

    async def callbacks(self, *, window_s: float) -> dict[str, float]:
        """Be called back; the median round trip, on the host's clock."""
        call = self._channel.unary_unary(f"/{SERVICE}/CallBack")
        return {"callback_us": float(await call(b"%f" % window_s, timeout=window_s + 30))}

    async def hold_sessions(self, *, count: int) -> dict[str, float]:
        """Open `count` more sessions, each with one call, and hold them."""
        opening = asyncio.Semaphore(OPENING_MAX)
        channel = self._channel

        async def hold() -> None:
            async with opening:
                session = channel.session()
                await self._echo(session)()
                self._held.append(session)

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(hold())
        return {"held": len(self._held)}

    async def watch(self, *, count: int, is_stuck: bool = False) -> dict[str, float]:
        """Open `count` more channels that are told whatever is published."""
        opening = asyncio.Semaphore(OPENING_MAX)

        async def hold() -> None:
            async with opening:
                channel = self._open(is_stuck=is_stuck)
                await channel.unary_unary(f"/{SERVICE}/Watch")(b"", timeout=30)
                self._held.append(channel)

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(hold())
        return {"held": len(self._held)}


class _Echoes:
    """What `Workloads.latencies` calls."""

    def __init__(self, channel: Any) -> None:
        self.echo = partial(channel.unary_unary(f"/{SERVICE}/Echo"), timeout=10)


async def _latencies(channel: Any, arguments: dict[str, Any]) -> dict[str, float]:
    return await Workloads(cast("Any", _Echoes(channel))).latencies(**arguments)


async def main(role: str, carrier: Literal["websocket", "grpc"], url: str) -> None:
    """Serve or call until standard input ends."""
    if role == "host":
        host = Host(carrier, url)
        await host.start()
        await serve_commands({}, {"publish": host.publish})
    else:
        await serve_commands({}, Caller(carrier, url).commands())


if __name__ == "__main__":
    run(main(sys.argv[1], cast("Any", sys.argv[2]), sys.argv[3]))
