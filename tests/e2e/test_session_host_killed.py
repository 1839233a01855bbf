"""
Goal: whenever in a session's life its host ends, killed or in order, the session says so at both
ends, hides nothing, begins nothing anew by itself, and leaves nothing behind. So does one whose
caller ends.

Method: a hub, hosts and callers in processes of their own; in a scene the sessions of one host are
each at another moment when it ends. Scenes are played once, and each moment is one test.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.aio import RpcError, SessionState
from tests.e2e.session_host import ACCOUNT, EVENTS, MESSAGES, NARROW, PADDING, SERVICE
from tests.e2e.session_stage import (
    HUB_FLAGS,
    At,
    Fault,
    Moment,
    Scene,
    host_process,
    is_deserted,
    play,
    url_of,
)
from tests.integration.watched_hub import WatchedHub, watched_hub
from tests.support.relay import Stub, make_handlers
from tests.support.scraping import key, scrape
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

OPENING, OPENED, CLOSING = SessionState.OPENING, SessionState.OPENED, SessionState.CLOSING
CLOSED, FAULTED = SessionState.CLOSED, SessionState.FAULTED
_MOMENTS: dict[str, Moment] = {}


def moment(function: Moment) -> Moment:
    _MOMENTS[function.__name__] = function
    return function


# --- the moments ---


@moment
async def before_the_first_call(at: At) -> None:
    """Nobody has it: it opens at the host that is left."""
    async with at.session().session as session:
        await at.struck()
        sample = key("hosts", address=at.stage.address)

        async def is_alone() -> bool:
            return (await scrape(at.stage.hub.http_port))[sample] == 1

        await until(is_alone)
        name = f"{at.name} anew"
        at.stage.other.tell("release", call=name)
        await Stub(session).unary_unary("Hold")(name.encode())
        assert session.instance == "other"
    assert session.state is CLOSED


@moment
async def idle(at: At) -> None:
    watched = at.session()
    async with watched.session:
        await at.opened(watched)
        await at.struck()
        await at.is_faulted(watched)


@moment
async def unary_call(at: At) -> None:
    watched = at.session()
    async with watched.session as session:
        call = Stub(session).unary_unary("Hold")(at.data)
        await at.stage.host.said("started", at.name)
        await at.struck()
        await at.ends(call)
        await at.is_faulted(watched)


@moment
async def responses_half_read(at: At) -> None:
    watched = at.session()
    async with watched.session as session:
        call = Stub(session).unary_stream("Feed")(at.data)
        assert await call.read() == PADDING
        await at.struck()
        read = await at.ends(_read_all(call))
        assert read in (None, [PADDING] * (MESSAGES - 1))
        await at.is_faulted(watched)


@moment
async def requests_half_sent(at: At) -> None:
    watched = at.session()
    async with watched.session as session:
        call = Stub(session).stream_unary("Collect")(_requests(at.data))
        await at.stage.host.said("received", at.name)
        await at.struck()
        assert await at.ends(call) in (None, b"%d" % MESSAGES)
        await at.is_faulted(watched)


@moment
async def duplex(at: At) -> None:
    watched = at.session()
    async with watched.session as session:
        call = Stub(session).stream_stream("Chat")()
        await call.write(at.data)
        assert await call.read() == at.data
        await at.struck()
        if at.fault is Fault.DRAIN:
            await call.done_writing()
        await at.ends(_read_all(call))
        await at.is_faulted(watched)


async def _read_all(call: Any) -> list[bytes]:
    read = []
    while (message := await call.read()) is not grpc.aio.EOF:
        read.append(message)
    return read


async def _requests(first: bytes) -> AsyncIterator[bytes]:
    yield first
    for _ in range(MESSAGES):
        yield PADDING


@moment
async def callback(at: At) -> None:
    await _call_back(at, "Call")


@moment
async def duplex_callback(at: At) -> None:
    await _call_back(at, "CallChat")


async def _call_back(at: At, method: str) -> None:
    listener = at.stage.listener
    watched = at.session()
    async with watched.session as session:
        call = Stub(session).unary_unary(method)(at.data)
        await listener.entered[at.name].wait()
        await at.struck()
        if at.fault is Fault.DRAIN:
            listener.gates[at.name].set()
        await at.ends(call)
        await listener.left[at.name].wait()
        is_over = "answered" if at.fault is Fault.DRAIN else "cancelled True"
        await until(lambda: listener.fates.get(at.name) == is_over)
        await at.is_faulted(watched)


@moment
async def one_way_calls(at: At) -> None:
    """They are over for their caller, and lost or not it is the hub who says so."""
    names = [f"{at.name} {number}" for number in range(3)]
    watched = at.session()
    async with watched.session as session:
        note = Stub(session).unary_unary("Note")
        for name in names:
            assert await note(name.encode(), metadata=[("relay-confirm", "hub")]) == b""
            await at.stage.host.said("started", name)
        await at.struck(*names)
        await at.is_faulted(watched)
    status = "OK" if at.fault is Fault.DRAIN else "UNAVAILABLE"
    method = f"{SERVICE}/Note"
    samples = await scrape(at.stage.hub.http_port)
    place = {"address": at.stage.address, "method": method}
    assert samples[key("calls_total", **place, status=status)] == 3
    log = at.stage.hub.log_file.read_text().splitlines()
    lost = [
        line
        for line in log
        if "call failed" in line and f"address={at.stage.address} method={method}" in line
    ]
    assert len(lost) == (0 if at.fault is Fault.DRAIN else 3)


@moment
async def terminating_call(at: At) -> None:
    watched = at.session()
    async with watched.session:
        stub = await at.opened(watched, ACCOUNT, "Open")
        call = stub.unary_unary("Close")(at.data)
        await at.stage.host.said("started", at.name)
        await at.struck()
        await at.ends(call)
        await _is_over_while_closing(at, watched)


@moment
async def closing(at: At) -> None:
    """The block is left while a call runs."""
    watched = at.session()
    calls = []

    async def program() -> None:
        async with watched.session as session:
            calls.append(Stub(session).unary_unary("Hold")(at.data))
            await at.stage.host.said("started", at.name)

    running = asyncio.create_task(program())
    await until(lambda: watched.session.state is CLOSING)
    await at.struck()
    await running
    await at.ends(calls[0])
    await _is_over_while_closing(at, watched)


async def _is_over_while_closing(at: At, watched: Any) -> None:
    if at.fault is Fault.KILL:
        await at.is_faulted(watched, OPENING, OPENED, CLOSING)
    else:
        # The host lets go of it, as it was asked to.
        await watched.over.wait()
        assert watched.states == [OPENING, OPENED, CLOSING, CLOSED]
        assert watched.session.fault == ""


@moment
async def body_raises(at: At) -> None:
    """What the block raises is what is raised."""
    watched = at.session()
    with pytest.raises(KeyError, match="mine"):
        async with watched.session as session:
            call = Stub(session).unary_unary("Hold")(at.data)
            await at.stage.host.said("started", at.name)
            await at.struck()
            await at.ends(call)
            await watched.over.wait()
            raise KeyError("mine")
    await at.is_faulted(watched)


@moment
async def body_ends_with_the_call(at: At) -> None:
    watched = at.session()
    name = f"{at.name} opens"

    async def program() -> None:
        async with watched.session as session:
            call = Stub(session).unary_unary("Hold")(at.data)
            await at.stage.host.said("started", at.name)
            await at.struck()
            await call
            await watched.over.wait()

    await at.ends(program())
    assert watched.session.state is not OPENED, name


@moment
async def opening(at: At) -> None:
    """
    The host has as many as it takes, and two wait; one is being closed already. A host that stops
    refuses them, and they go to another one; with one that is killed they are lost.
    """
    holder, waiting, closed = at.session(), at.session(), at.session()
    await at.opened(holder, NARROW)
    calls = []
    for number, watched in enumerate((waiting, closed), 2):
        name = f"{at.name} {number} later anew"
        at.stage.other.tell("release", call=name)
        calls.append(Stub(watched.session, NARROW).unary_unary("Hold")(name.encode()))
        await at.stage.host.said("opening", str(number))
    leaving = asyncio.create_task(closed.session.close())
    assert waiting.session.state is closed.session.state is OPENING
    await at.struck()
    await at.is_faulted(holder)
    if at.fault is not Fault.KILL:
        await calls[0]
        assert waiting.session.instance == "other"
        # That one takes one at a time, too.
        await waiting.session.close()
        await calls[1]
        await leaving
        assert closed.session.state is CLOSED
        return
    for call in calls:
        with pytest.raises(RpcError) as caught:
            await call
        told = (caught.value.code(), caught.value.may_have_executed)
        assert told == (grpc.StatusCode.UNAVAILABLE, False)
    await leaving
    for watched in (waiting, closed):
        await watched.over.wait()
        assert watched.states == [OPENING, FAULTED]
        assert watched.session.fault
    await at.is_faulted(waiting, OPENING)


# --- of blocking callers ---


@moment
async def blocking_idle(at: At) -> None:
    await _block(at, lambda session: None)


@moment
async def blocking_unary_call(at: At) -> None:
    def begin(session: relayrpc.Session) -> Any:
        call = Stub(session).unary_unary("Hold").future(at.data)
        at.from_thread(at.stage.host.said("started", at.name))
        return call.result

    await _block(at, begin)


@moment
async def blocking_responses_half_read(at: At) -> None:
    def begin(session: relayrpc.Session) -> Any:
        responses = Stub(session).unary_stream("Feed")(at.data)
        assert next(responses) == PADDING
        return lambda: list(responses)

    await _block(at, begin)


@moment
async def blocking_callback(at: At) -> None:
    left = threading.Event()

    def ask(request: bytes, context: Any) -> bytes:
        entered.set()
        if at.fault is Fault.DRAIN:
            at.from_thread(at.stage.has_struck.wait())
        else:
            over = threading.Event()
            context.add_callback(over.set)
            over.wait()
            assert not context.is_active()
            left.set()
        return request

    entered = threading.Event()

    def begin(session: relayrpc.Session) -> Any:
        call = Stub(session).unary_unary("Call").future(at.data)
        entered.wait()
        return call.result

    await _block(at, begin, ask)
    assert at.fault is Fault.DRAIN or left.is_set()


async def _block(
    at: At,
    begin: Callable[[relayrpc.Session], Callable[[], Any] | None],
    ask: Callable[..., bytes] | None = None,
) -> None:
    """
    Have a blocking caller at the moment.

    Args:
        at: The moment.
        begin: Begins a call in a session, and returns what waits for its end; or no call.
        ask: Serves callbacks.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as pool:
        await loop.run_in_executor(pool, _call_blocking, at, begin, ask)


def _call_blocking(at: At, begin: Callable[..., Any], ask: Callable[..., bytes] | None) -> None:
    def add_events(ask: Any, server: grpc.Server) -> None:
        server.add_registered_method_handlers(EVENTS, make_handlers({"uu:Ask": ask}))

    callbacks = [] if ask is None else [(add_events, ask)]
    door = at.stage.scene.door
    with relayrpc.channel(at.stage.url, carrier=door, callbacks=callbacks) as channel:
        states: queue.SimpleQueue[SessionState] = queue.SimpleQueue()
        with channel.session() as session:
            session.add_state_callback(states.put)
            at.release(at.stage.host, f"{at.name} opens")
            Stub(session).unary_unary("Hold")(f"{at.name} opens".encode())
            assert session.instance == "host"
            finish = begin(session)
            at.from_thread(at.struck())
            if finish is not None and at.fault is Fault.DRAIN:
                finish()
            elif finish is not None:
                with pytest.raises(relayrpc.RpcError) as caught:
                    finish()
                at.check_error(caught.value)
            assert [states.get() for _ in range(3)] == [OPENING, OPENED, FAULTED]
            with pytest.raises(relayrpc.RpcError) as caught:
                Stub(session).unary_unary("Hold")(at.data)
            at.check_late(caught.value, session.fault)
        assert session.state is FAULTED
        with channel.session() as session:
            name = f"{at.name} anew"
            at.release(at.stage.other, name)
            assert Stub(session).unary_unary("Hold")(name.encode()) == name.encode()
            assert session.instance == "other"
        assert not channel.core.open_calls()


# --- playing them ---

SCENES = [Scene(fault, door) for fault in Fault for door in ("websocket", "grpc")]
_TEST = "test_session_whose_host_ends"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedHub]:
    with watched_hub(tmp_path_factory.mktemp("hub"), *HUB_FLAGS) as hub:
        yield hub
        hub.check_unhurt()


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, hub: WatchedHub, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[Scene, Mapping[str, str]]:
    """Play the scenes of all tests that were asked for; what was wrong, by moment."""
    wanted: dict[Scene, dict[str, Moment]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == _TEST:
            name = item.callspec.params["name"]
            moments = wanted.setdefault(item.callspec.params["scene"], {})
            if name:
                moments[name] = _MOMENTS[name]
    folder = tmp_path_factory.mktemp("ls")

    async def play_all() -> Mapping[Scene, Mapping[str, str]]:
        return {
            scene: await play(scene, hub, moments, folder) for scene, moments in wanted.items()
        }

    return asyncio.run(play_all())


@pytest.mark.parametrize("scene", SCENES, ids=str)
@pytest.mark.parametrize("name", [*_MOMENTS, ""], ids=lambda name: name or "nothing_is_left")
def test_session_whose_host_ends(
    name: str, scene: Scene, played: Mapping[Scene, Mapping[str, str]]
) -> None:
    wrong = played[scene].get(name)
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)
