"""
Sessions at every moment of their lives, and then their host ends: what the moments of
test_session_host_killed.py are played on.

Owns: the processes of one scene, the signal, what is left afterwards. Does not own: the moments,
and what is to be seen at each.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import signal
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.aio import RpcError, Session, SessionState
from tests.e2e.endings.peer import PeerProcess, peer_process
from tests.e2e.session_host import EVENTS, SERVICE
from tests.e2e.test_configuration import relayrpc as run_command
from tests.integration.watched_hub import WatchedHub
from tests.support.relay import Stub, make_handlers
from tests.support.scraping import key, scrape
from tests.support.until import until


__all__ = [
    "HUB_FLAGS",
    "At",
    "Fault",
    "Listener",
    "Moment",
    "Scene",
    "host_process",
    "is_deserted",
    "play",
    "url_of",
]

HUB_FLAGS: Final = ("--resume-window=0.3", "--limit", "log_records_per_s_max=1000")
# Nothing here takes long; who waits for longer waits in vain.
_TIMEOUT_S: Final = 40.0
_GRACE_S: Final = 60.0


class Fault(StrEnum):
    """How the host ends."""

    KILL = "kill"
    STOP = "stop"
    """SIGTERM, and it gives the calls that run no time."""
    DRAIN = "drain"
    """SIGTERM, and it lets them finish."""


class Scene(NamedTuple):
    """What moments have in common that are played together."""

    fault: Fault
    door: str
    """ "websocket" or "grpc"."""

    def __str__(self) -> str:
        return f"{self.fault}-{self.door}"


Moment = Callable[["At"], Coroutine[Any, Any, None]]


class Listener:
    """What the caller serves: waits for the test, and takes note of what becomes of it."""

    def __init__(self) -> None:
        self.entered: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        # Set when a callback is over; and then how.
        self.left: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.fates: dict[str, str] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        behaviors = {"uu:Ask": self.ask, "ss:Chat": self.chat}
        server.add_registered_method_handlers(EVENTS, make_handlers(behaviors))

    async def ask(self, request: bytes, context: Any) -> bytes:
        name = request.decode()
        with self._noted(name, context):
            await self.gates[name].wait()
        return request

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        first = await anext(requests)
        name = first.decode()
        with self._noted(name, context):
            yield first
            await self.gates[name].wait()

    @contextlib.contextmanager
    def _noted(self, name: str, context: Any) -> Iterator[None]:
        context.add_done_callback(lambda _: self.left[name].set())
        self.entered[name].set()
        try:
            yield
        except asyncio.CancelledError:
            self.fates[name] = f"cancelled {context.cancelled()}"
            raise
        self.fates[name] = "answered"


@dataclass(slots=True)
class Stage:
    """The processes of one scene, and its caller, which is the test."""

    scene: Scene
    hub: WatchedHub
    address: str
    host: PeerProcess
    """The one that ends."""
    other: PeerProcess
    """Serves at the same address, as soon as that one is gone."""
    channel: relayrpc.aio.Channel
    listener: Listener
    has_struck: asyncio.Event
    """The host has its signal, and where it drains, has begun to end sessions."""

    @property
    def url(self) -> str:
        return url_of(self.hub, self.scene.door, self.address)


class Watched(NamedTuple):
    """A session, and what it told of itself."""

    session: Session
    states: list[SessionState]
    over: asyncio.Event


class At:
    """One moment on the stage; its calls are named after it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.data = name.encode()
        self.fault = stage.scene.fault
        self.has_come = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._anew_count = 0

    def session(self) -> Watched:
        session = self.stage.channel.session()
        watched = Watched(session, [], asyncio.Event())
        session.add_state_callback(watched.states.append)
        session.add_state_callback(
            lambda state: watched.over.set()
            if state in (SessionState.CLOSED, SessionState.FAULTED)
            else None
        )
        return watched

    async def opened(self, watched: Watched, service: str = SERVICE, method: str = "Hold") -> Stub:
        """Open a session by a call that is over when this returns."""
        name = f"{self.name} opens"
        self.stage.host.tell("release", call=name)
        await Stub(watched.session, service).unary_unary(method)(name.encode())
        assert watched.session.instance == "host"
        return Stub(watched.session, service)

    async def struck(self, *names: str) -> None:
        """
        Say that the moment has come, and wait until the host has its signal. Where it lets calls
        finish, those of these names now may; without names that of the moment's own.
        """
        self.has_come.set()
        await self.stage.has_struck.wait()
        if self.fault is Fault.DRAIN:
            for name in names or (self.name,):
                self.stage.host.tell("release", call=name)

    def release(self, host: PeerProcess, name: str) -> None:
        """Have a host let a call finish; from any thread."""
        self._loop.call_soon_threadsafe(functools.partial(host.tell, "release", call=name))

    def from_thread(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await something for a thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT_S)

    # --- what must be seen ---

    async def ends(self, waiting: Awaitable[Any]) -> Any:
        """Await a call that ran, and assert how it ended; returns its result where it has one."""
        if self.fault is Fault.DRAIN:
            return await waiting
        with pytest.raises(RpcError) as caught:
            await waiting
        self.check_error(caught.value)
        return None

    def check_error(self, error: Any) -> None:
        """Assert that this is what a call ends with that ran."""
        origin = "hub" if self.fault is Fault.KILL else "host"
        told = (error.code(), error.may_have_executed, error.origin)
        assert told == (grpc.StatusCode.UNAVAILABLE, True, origin), error

    async def is_faulted(
        self, watched: Watched, *told: SessionState, service: str = SERVICE
    ) -> None:
        """
        Assert that a session is faulted, and says why to whoever asks it for more; and that another
        one on its channel is served.

        Args:
            watched: The session.
            told: The states that it was in before; none: it was open.
            service: Of a call in it.
        """
        session = watched.session
        await watched.over.wait()
        assert session.state is SessionState.FAULTED
        assert session.fault
        before = told or (SessionState.OPENING, SessionState.OPENED)
        assert watched.states == [*before, SessionState.FAULTED]
        if before[-1] is not SessionState.CLOSING:
            with pytest.raises(RpcError) as caught:
                await Stub(session, service).unary_unary("Hold")(f"{self.name} late".encode())
            self.check_late(caught.value, session.fault)
        assert not session.calls
        await self.begins_anew()

    def check_late(self, error: Any, fault: str) -> None:
        """Assert that this is what a call ends with that comes after the end."""
        told = (error.code(), error.details(), error.may_have_executed)
        details = f"the session is faulted: {fault}"
        assert told == (grpc.StatusCode.FAILED_PRECONDITION, details, False), error

    async def begins_anew(self) -> None:
        """Assert that another session on the channel is served, by the other host."""
        self._anew_count += 1
        name = f"{self.name} {self._anew_count} anew"
        self.stage.other.tell("release", call=name)
        async with self.stage.channel.session() as session:
            assert await Stub(session).unary_unary("Hold")(name.encode()) == name.encode()
            assert session.instance == "other"


def url_of(hub: WatchedHub, door: str, address: str, *, port: int = 0) -> str:
    """Return what endpoints are made with that use a door; by way of another port, if given."""
    scheme, own = ("ws", hub.http_port) if door == "websocket" else ("relay", hub.grpc_port)
    return f"{scheme}://127.0.0.1:{port or own}/{address}"


def host_process(
    url: str, door: str, instance: str, **options: Any
) -> contextlib.AbstractAsyncContextManager[PeerProcess]:
    """Run a host until it serves; it is killed at the end if it still runs."""
    config = {
        "url": url,
        "carrier": door,
        "instance": instance,
        "priority": 0,
        "slots": 0,
        "grace": 0,
        **options,
    }
    return peer_process("tests.e2e.session_host", config, ready="serving")


# --- playing ---


async def play(
    scene: Scene, hub: WatchedHub, moments: Mapping[str, Moment], folder: Path
) -> dict[str, str]:
    """
    Play moments side by side, in a session or more each.

    Returns:
        What was wrong, by the moment's name; under the empty name, what was left at the end.
    """
    before = asyncio.all_tasks()
    strays = _Strays()
    wrong: dict[str, str] = {}
    try:
        async with asyncio.timeout(2 * _TIMEOUT_S), strays:
            async with _staged(scene, hub) as stage:
                wrong = await _play_on(stage, moments)
                if not wrong:
                    await _is_left_alone(stage, folder)
            await until(lambda: asyncio.all_tasks() <= before)
            await until(lambda: is_deserted(hub))
            hub.check_log()
        assert not strays.seen
    except Exception:
        wrong[""] = traceback.format_exc() + f"{strays.seen}"
    return wrong


@contextlib.asynccontextmanager
async def _staged(scene: Scene, hub: WatchedHub) -> AsyncIterator[Stage]:
    address = f"sessions/{scene}"
    url = url_of(hub, scene.door, address)
    listener = Listener()
    grace = _GRACE_S if scene.fault is Fault.DRAIN else 0
    async with contextlib.AsyncExitStack() as stack:
        host, other = await asyncio.gather(
            stack.enter_async_context(host_process(url, scene.door, "host", grace=grace)),
            stack.enter_async_context(host_process(url, scene.door, "other", priority=1)),
        )
        callbacks = [(Listener.add_to, listener)]
        channel = await stack.enter_async_context(
            relayrpc.aio.channel(url, carrier=scene.door, callbacks=callbacks, instance="caller")
        )
        yield Stage(scene, hub, address, host, other, channel, listener, asyncio.Event())


async def _play_on(stage: Stage, moments: Mapping[str, Moment]) -> dict[str, str]:
    ats = {name: At(stage, name) for name in moments}
    tasks = {name: asyncio.create_task(_timed(moments[name](at))) for name, at in ats.items()}
    for name, task in tasks.items():
        coming = asyncio.create_task(ats[name].has_come.wait())
        await asyncio.wait((coming, task), return_when=asyncio.FIRST_COMPLETED)
        coming.cancel()
    await _strike(stage)
    await asyncio.wait(tasks.values())
    return {
        name: "".join(traceback.format_exception(error)) + f"{stage.host.lines}"
        for name, task in tasks.items()
        if (error := task.exception()) is not None
    }


async def _strike(stage: Stage) -> None:
    if stage.scene.fault is not Fault.DRAIN:
        stage.host.send_signal(
            signal.SIGKILL if stage.scene.fault is Fault.KILL else signal.SIGTERM
        )
    else:
        # An idle session ends first.
        at = At(stage, "first to end")
        watched = at.session()
        await at.opened(watched)
        stage.host.send_signal(signal.SIGTERM)
        await watched.over.wait()
    stage.has_struck.set()


async def _timed(playing: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        await playing


async def _is_left_alone(stage: Stage, folder: Path) -> None:
    """Assert that nothing of the sessions is left, at the caller, the hub, and the hosts."""
    if stage.scene.fault is not Fault.KILL:
        # Its calls are over before its link is.
        assert await stage.host.finished() == 0
    channel = stage.channel
    assert not channel.open_calls()
    assert not channel.live.link.calls_open_count
    assert channel.callbacks is not None
    await until(lambda: not channel.callbacks._contexts)
    url = url_of(stage.hub, "websocket", "")
    done = await asyncio.to_thread(run_command, folder, "ls", "--json", url)
    listing = json.loads(done.stdout)
    hosts = [(each["instance"], each["callsOpenCount"]) for each in listing["hosts"]]
    assert hosts == [("other", 0)]
    calls = {each["instance"]: each["callsOpenCount"] for each in listing["links"]}
    assert calls["caller"] == calls["other"] == 0
    assert "host" not in calls
    samples = await scrape(stage.hub.http_port)
    for name in ("calls_in_flight", "queue_calls"):
        assert not samples.get(key(name, address=stage.address))
    if stage.scene.fault is not Fault.KILL:
        left = await stage.host.said("left")
        assert (left["taken"], left["tasks"]) == (0, [])
        made = {line["call"] for line in stage.host.lines if line["event"] == "made"}
        closed = {line["call"] for line in stage.host.lines if line["event"] == "closed"}
        assert made == closed
    assert await stage.other.finished() == 0
    left = await stage.other.said("left")
    assert (left["taken"], left["tasks"]) == (0, [])
    started = [line["call"] for line in stage.other.lines if line["event"] == "started"]
    assert all(name.endswith("anew") for name in started), started
    assert len(started) == len(set(started))


async def is_deserted(hub: WatchedHub) -> bool:
    """Say whether a hub has no links, no hosts and no calls of anybody's."""
    names = ("calls_in_flight", "queue_calls", "hosts", "links_parked")
    samples = await scrape(hub.http_port)
    return not any(
        value
        for (name, labels), value in samples.items()
        if (name.removeprefix("relayrpc_") in names and ("address", "$hub") not in labels)
        or (name == "relayrpc_links" and ("carrier", "memory") not in labels)
    )


class _Strays(logging.Handler):
    """Exceptions that reach nobody at the caller, and errors in its log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())

    async def __aenter__(self) -> None:
        logging.getLogger().addHandler(self)

    async def __aexit__(self, *exc_info: object) -> None:
        gc.collect()
        # What the collector finds is told on the loop.
        await asyncio.sleep(0)
        logging.getLogger().removeHandler(self)
