"""
One scene: a host and a caller in processes of their own at a hub, a call in each state, and then
the fault. What comes of it is written down, not judged.

Owns: bringing each state about by what the processes say, the fault, the healing, and when a scene
has shown all. Does not own: what must be told (cells.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

import relayrpc.aio
from tests.e2e.endings.cells import (
    CELLS,
    OK,
    Door,
    Expected,
    Fate,
    Fault,
    SceneKey,
    State,
    Victim,
    expected,
)
from tests.e2e.endings.host import SERVICE
from tests.e2e.endings.peer import (
    PeerProcess,
    Told,
    caller_process,
    host_process,
    server_at,
)
from tests.integration.watched_hub import WatchedHub
from tests.support.scraping import key, scrape
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


__all__ = ["Bystander", "Played", "bystander", "play"]

_TIMEOUT_S: Final = 90.0
# After these the victim is there again.
_HEALING: Final = {Fault.STOP, Fault.CUT, Fault.SILENCE}
_SIGNALS: Final = {
    Fault.KILL: signal.SIGKILL,
    Fault.TERM: signal.SIGTERM,
    Fault.STOP: signal.SIGSTOP,
}


@dataclass(slots=True)
class Played:
    """What a scene has shown, by the state of the call."""

    told: dict[State, Told]
    fates: dict[State, Fate]
    starts: dict[State, int]
    """How often the call's handler was started."""


class Bystander:
    """Somebody else's caller at a hub: takes a slot, and sees that hosts serve again."""

    def __init__(self, hub: WatchedHub, channel: grpc.aio.Channel) -> None:
        self.hub = hub
        self._hold = channel.unary_unary(f"/{SERVICE}/Hold")
        # A hub answers few scrapes at a time.
        self._scraping = asyncio.Lock()

    def hold(self, call: str, address: str) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        """Call and wait for the host to release it."""
        metadata = (("call", call), ("relay-address", address))
        return self._hold(b"", metadata=metadata, wait_for_ready=True)

    async def is_served(self, host: PeerProcess, address: str) -> None:
        """Call until a host at the address answers."""
        number = 0
        while True:
            number += 1
            call = f"probe {number} at {address}"
            host.tell("release", call=call)
            try:
                await self.hold(call, address)
            except relayrpc.aio.RpcError as error:
                # The host's last link was there, and is not any more.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                return

    async def counts(self, metric: str, address: str, value: int) -> None:
        """Wait until a metric of the hub has this value at this address."""
        sample = key(metric, address=address)

        async def look() -> bool:
            async with self._scraping:
                samples = await scrape(self.hub.http_port)
            return samples.get(sample, 0) == value

        await until(look)


@asynccontextmanager
async def bystander(hub: WatchedHub) -> AsyncIterator[Bystander]:
    """Link a bystander to a hub."""
    async with relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}") as channel:
        yield Bystander(hub, channel)


async def play(scene: SceneKey, hub: Bystander, *, keepalive_s: float) -> Played:
    """
    Play a scene and write down what it has shown.

    Args:
        scene: Which.
        hub: At the hub where it is to be played; a hub that is the victim is nobody else's.
        keepalive_s: What the endpoints have, as the hub.
    """
    async with asyncio.timeout(_TIMEOUT_S), _staged(scene, hub, keepalive_s) as stage:
        try:
            await stage.bring_about()
            await stage.fail()
            await stage.outlive()
            return await stage.close()
        except BaseException as error:
            error.add_note(f"{scene}: the host said {stage.host.lines}")
            error.add_note(f"{scene}: the caller said {stage.caller.lines}")
            raise


@asynccontextmanager
async def _staged(scene: SceneKey, hub: Bystander, keepalive_s: float) -> AsyncIterator[_Stage]:
    """Start the processes, each behind a proxy of its own."""
    limits = {"keepalive_interval_s": keepalive_s}
    ports = {
        Door.WEBSOCKET: hub.hub.http_port,
        Door.GRPC: hub.hub.grpc_port,
        Door.NATIVE: hub.hub.grpc_port,
    }
    door = Door.WEBSOCKET if scene.door is Door.NATIVE else scene.door
    async with (
        TCPProxy(ports[scene.door]) as caller_proxy,
        TCPProxy(ports[door]) as host_proxy,
        TCPProxy(ports[door]) as sent_proxy,
        host_process(
            door,
            server_at(door, host_proxy.port, f"{scene}/direct"),
            server_at(door, host_proxy.port, f"{scene}/slot", slots=1),
            server_at(door, host_proxy.port, f"{scene}/held", holds_back=True),
            server_at(door, sent_proxy.port, f"{scene}/sent"),
            **limits,
        ) as host,
        caller_process(scene.door, caller_proxy.port, f"{scene}-caller", **limits) as caller,
    ):
        yield _Stage(scene, hub, host, caller, host_proxy, sent_proxy, caller_proxy)


# What is called in each state, and which of the host's addresses.
_CALLS: Final = {
    State.QUEUED: ("Hold", "slot"),
    State.SENT: ("Hold", "sent"),
    State.HANDED: ("Hold", "held"),
    State.RUNNING: ("Hold", "direct"),
    State.REQUESTS: ("Collect", "direct"),
    State.RESPONSES: ("Feed", "direct"),
    State.ENDING: ("Hold", "direct"),
}
_HOLDER: Final = "holder of the slot"


class _Stage:
    """The processes of one scene, and what is done with them."""

    def __init__(
        self,
        scene: SceneKey,
        hub: Bystander,
        host: PeerProcess,
        caller: PeerProcess,
        host_proxy: TCPProxy,
        sent_proxy: TCPProxy,
        caller_proxy: TCPProxy,
    ) -> None:
        self.scene = scene
        self.hub = hub
        self.host = host
        self.caller = caller
        self._proxies = {
            Victim.CALLER: (caller_proxy,),
            Victim.HUB: (caller_proxy, host_proxy, sent_proxy),
            Victim.HOST: (host_proxy, sent_proxy),
        }[scene.victim]
        self._sent_proxy = sent_proxy
        self.expected: dict[State, Expected] = {
            cell.state: expected(cell) for cell in CELLS if cell.scene == scene
        }
        self._holding: asyncio.Future[Any] | None = None

    # --- before ---

    async def bring_about(self) -> None:
        """Have a call in each state; each is known by what somebody says."""
        host, caller = self.host, self.caller
        self._holding = asyncio.ensure_future(self.hub.hold(_HOLDER, self._address("slot")))
        await host.said("started", _HOLDER)
        for state in self.expected:
            if state is not State.SENT:
                self._call(state)
        await host.said("started", State.RUNNING)
        await host.said("started", State.ENDING)
        await host.said("received", State.REQUESTS)
        await host.said("handed", State.HANDED)
        await caller.said("reading", State.RESPONSES)
        await self.hub.counts("queue_calls", self._address("slot"), 1)
        if State.SENT in self.expected:
            self._sent_proxy.stall()
            self._call(State.SENT)
            await self.hub.counts("calls_in_flight", self._address("sent"), 1)

    def _call(self, state: State) -> None:
        method, name = _CALLS[state]
        self.caller.call(state, self._address(name), method=method)

    def _address(self, name: str) -> str:
        return f"{self.scene}/{name}"

    # --- the fault ---

    async def fail(self) -> None:
        """Have one call end, and the victim fail at that moment."""
        self.host.tell("release", call=State.ENDING)
        await self.host.said("finished", State.ENDING)
        match self.scene.fault:
            case Fault.CUT:
                for proxy in self._proxies:
                    assert proxy.cut(), "there was no connection to cut"
            case Fault.SILENCE:
                for proxy in self._proxies:
                    proxy.stall()
            case fault:
                self._send_signal(_SIGNALS[fault])

    def _send_signal(self, number: signal.Signals) -> None:
        match self.scene.victim:
            case Victim.CALLER:
                self.caller.send_signal(number)
            case Victim.HUB:
                self.hub.hub.running.process.send_signal(number)
            case Victim.HOST:
                self.host.send_signal(number)

    # --- after ---

    async def outlive(self) -> None:
        """Wait for what the survivors make of it, heal what can be, and wait for the rest."""
        scene = self.scene
        if scene.fault is Fault.TERM and scene.victim is Victim.HOST:
            await self.host.said("draining")
        if scene.fault not in (Fault.STOP, Fault.SILENCE):
            self._sent_proxy.resume()
        self._release_survivors()
        if scene.fault in (Fault.STOP, Fault.SILENCE):
            await self._given_up()
            self._heal()
        if self._is_caller_left:
            for state in self.expected:
                await self.caller.said("told", state)
        if self._is_host_left:
            await self._nobody_runs()
        if self._is_hub_left:
            await self.hub.counts("queue_calls", self._address("slot"), 0)
        await self._arrive()

    @property
    def _is_caller_left(self) -> bool:
        return (self.scene.victim, self.scene.fault) != (Victim.CALLER, Fault.KILL)

    @property
    def _is_host_left(self) -> bool:
        return self.scene.victim is not Victim.HOST or self.scene.fault is not Fault.KILL

    @property
    def _is_hub_left(self) -> bool:
        return self.scene.victim is not Victim.HUB or self.scene.fault in _HEALING

    def _release_survivors(self) -> None:
        """Let the calls go on that nothing has happened to, and readers find out what has."""
        for state, what in self.expected.items():
            if OK in what.told:
                self.host.tell("release", call=state)
            if what.survives or state is State.RESPONSES:
                self.caller.tell("go", call=state)
        if self.expected[State.QUEUED].survives:
            self.host.tell("release", call=_HOLDER)

    async def _given_up(self) -> None:
        """Wait until those who are awake and can be heard have given up on the silent one."""
        victim, fault = self.scene.victim, self.scene.fault
        if victim is Victim.HOST or (victim is Victim.HUB and self.scene.door is not Door.NATIVE):
            for state in self.expected:
                await self.caller.said("told", state)
        if victim is not Victim.HOST or fault is Fault.SILENCE:
            for state in (State.RUNNING, State.REQUESTS, State.RESPONSES):
                await self.host.said("cancelled", state)
        if victim is Victim.CALLER:
            await self.hub.counts("queue_calls", self._address("slot"), 0)

    def _heal(self) -> None:
        if self.scene.fault is Fault.STOP:
            self._send_signal(signal.SIGCONT)
        for proxy in (*self._proxies, self._sent_proxy):
            proxy.resume()

    async def _nobody_runs(self) -> None:
        """Wait until no handler of a call in the scene is left running, or held back."""
        for state in self.expected:
            await self._over("started", state)
            await self._over("handed", state)

    async def _over(self, begun: str, call: str) -> None:
        if self.host.find(begun, call) is None:
            return
        ends = {"started": ("finished", "cancelled"), "handed": ("started", "dropped")}[begun]
        waits = [asyncio.ensure_future(self.host.said(event, call)) for event in ends]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()

    async def _arrive(self) -> None:
        """Let whatever is late arrive: the hub and the host, if they are there, serve others."""
        assert self._holding is not None
        if not self._is_hub_left:
            self._holding.cancel()
            return
        self.host.tell("release", call=_HOLDER)
        with contextlib.suppress(relayrpc.aio.RpcError):
            await self._holding
        if self.scene.victim is not Victim.HOST or self.scene.fault in _HEALING:
            for name in ("direct", "slot", "held", "sent"):
                await self.hub.is_served(self.host, self._address(name))

    async def close(self) -> Played:
        """Let both processes end, and read their records to the end."""
        await self.caller.finished()
        await self.host.finished()
        told = {
            state: await self.caller.told(state)
            for state in self.expected
            if self.caller.find("told", state) is not None
        }
        starts = {
            state: sum(
                line["event"] == "started" and line["call"] == state for line in self.host.lines
            )
            for state in self.expected
        }
        fates = {state: self._fate(state) for state in self.expected}
        return Played(told, fates, starts)

    def _fate(self, state: State) -> Fate:
        host = self.host
        assert host.find("disordered", state) is None, "messages were lost or came twice"
        if host.find("started", state) is None:
            return Fate.NEVER
        if host.find("cancelled", state) is not None:
            return Fate.CANCELLED
        return Fate.FINISHED if host.find("finished", state) is not None else Fate.RUNNING
