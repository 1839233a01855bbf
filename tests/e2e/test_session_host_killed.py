"""
Goal: whenever in a session's life its host ends, killed or in order, the session says so at both
ends, hides nothing, begins nothing anew by itself, and leaves nothing behind. So does one whose
caller ends.

Method: a hub, hosts and callers in processes of their own; in a scene the sessions of one host are
each at another moment when it ends. Scenes are played once, and each moment is one test.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.aio import RpcError, SessionState
from tests.e2e.endings.peer import PeerProcess, peer_process
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
DOORS = ("websocket", "grpc")
ONE_WAY = [("relay-confirm", "hub")]
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
            assert await note(name.encode(), metadata=ONE_WAY) == b""
            await at.stage.host.said("started", name)
        await at.struck(*names)
        await at.is_faulted(watched)
    status = "OK" if at.fault is Fault.DRAIN else "UNAVAILABLE"
    method = f"{SERVICE}/Note"
    samples = await scrape(at.stage.hub.http_port)
    place = {"address": at.stage.address, "method": method}
    assert samples[key("calls_total", **place, status=status)] == 3
    lost_count = samples.get(key("one_way_lost_total", **place, status=status), 0)
    assert lost_count == (0 if at.fault is Fault.DRAIN else 3)
    log = at.stage.hub.log_file.read_text().splitlines()
    lost = [
        line
        for line in log
        if "one-way call lost" in line and f"address={at.stage.address} method={method}" in line
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
    """What the call raises is what is raised."""
    watched = at.session()

    async def program() -> None:
        async with watched.session as session:
            call = Stub(session).unary_unary("Hold")(at.data)
            await at.stage.host.said("started", at.name)
            await at.struck()
            await call
            await watched.over.wait()

    await at.ends(program())
    assert watched.session.state in (CLOSED, FAULTED)


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

SCENES = [Scene(fault, door) for fault in Fault for door in DOORS]
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


# --- hosts that are not replaced, or by themselves ---


@pytest.mark.parametrize("door", DOORS)
async def test_first_call_after_the_only_host_was_killed(door: str, hub: WatchedHub) -> None:
    """It is refused; or waits, where it is told to."""
    address = f"sessions/first/{door}"
    url = url_of(hub, door, address)
    async with relayrpc.aio.channel(url, carrier=door) as channel:
        early, patient = channel.session(), channel.session()
        async with host_process(url, door, "host") as host:
            host.send_signal(signal.SIGKILL)
            await until(lambda: is_deserted(hub))
        with pytest.raises(RpcError) as caught:
            await Stub(early).unary_unary("Hold")(b"early")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == f"no host listens at '{address}'"
        assert not caught.value.may_have_executed
        assert (early.state, early.fault) == (FAULTED, caught.value.details())
        call = Stub(patient).unary_unary("Hold")(b"patient", wait_for_ready=True)
        await until(lambda: patient.state is OPENING)
        async with host_process(url, door, "later") as later:
            later.tell("release", call="patient")
            assert await call == b"patient"
            await patient.close()
            assert patient.state is CLOSED
            assert await served(later) == ["patient"]
    await until(lambda: is_deserted(hub))


async def test_host_that_comes_back_has_no_session_of_the_one_before(tmp_path: Path) -> None:
    """It has the same instance id, and the hub need not wait to know that the other is gone."""
    with watched_hub(tmp_path) as hub:
        url = url_of(hub, "websocket", "sessions/again")
        async with (
            host_process(url, "websocket", "host") as host,
            relayrpc.aio.channel(url) as channel,
            channel.session() as session,
        ):
            hold = Stub(session).unary_unary("Hold")
            running = hold(b"running")
            await host.said("started", "running")
            host.send_signal(signal.SIGKILL)
            await until(lambda: counts(hub, "links_parked", 1))
            # The hub has it, and nobody else.
            late = hold(b"late")
            async with host_process(url, "websocket", "host") as again:
                ends = []
                for call in (running, late):
                    with pytest.raises(RpcError) as caught:
                        await call
                    ends.append((caught.value.code(), caught.value.may_have_executed))
                unavailable = grpc.StatusCode.UNAVAILABLE
                assert ends == [(unavailable, True), (unavailable, False)]
                await until(lambda: session.state is FAULTED)
                assert session.fault
                again.tell("release", call="anew")
                async with channel.session() as other:
                    assert await Stub(other).unary_unary("Hold")(b"anew") == b"anew"
                assert await served(again) == ["anew"]
        await until(lambda: is_deserted(hub))
        hub.check_log()


@pytest.mark.parametrize("door", DOORS)
async def test_host_that_is_killed_before_it_hears(door: str, hub: WatchedHub) -> None:
    """Of a call, of a new session, of the close of one."""
    address = f"sessions/unheard/{door}"
    url = url_of(hub, door, address)
    port = hub.http_port if door == "websocket" else hub.grpc_port
    async with (
        TCPProxy(port) as proxy,
        host_process(url_of(hub, door, address, port=proxy.port), door, "host") as host,
        host_process(url, door, "other", priority=1) as other,
        relayrpc.aio.channel(url, carrier=door) as channel,
    ):
        calling, closing, opening = (channel.session() for _ in range(3))
        host.tell("release", call="opens")
        for session in (calling, closing):
            await Stub(session).unary_unary("Hold")(b"opens")
        proxy.stall()
        calls = [Stub(session).unary_unary("Hold")(b"unheard") for session in (calling, opening)]
        leaving = asyncio.create_task(closing.close())
        await until(lambda: counts(hub, "calls_in_flight", 3, address=address))
        await until(lambda: (closing.state, opening.state) == (CLOSING, OPENING))
        host.send_signal(signal.SIGKILL)
        proxy.cut()
        ends = []
        for call in calls:
            with pytest.raises(RpcError) as caught:
                await call
            ends.append((caught.value.code(), caught.value.may_have_executed))
        # The second one waited for its session.
        assert ends == [(grpc.StatusCode.UNAVAILABLE, is_sent) for is_sent in (True, False)]
        await leaving
        for session in (calling, closing, opening):
            await until(lambda session=session: session.state is FAULTED)
            assert session.fault
        assert not channel.open_calls()
        assert await served(other) == []
    await until(lambda: is_deserted(hub))


async def served(host: PeerProcess) -> list[str]:
    """Let a host end, and return the names of the calls that it was handed."""
    assert await host.finished() == 0
    return [line["call"] for line in host.lines if line["event"] == "started"]


async def counts(hub: WatchedHub, metric: str, value: int, **labels: str) -> bool:
    return (await scrape(hub.http_port)).get(key(metric, **labels), 0) == value


# --- one-way calls ---

NOTE = f"{SERVICE}/Note"


async def lost_notes(hub: WatchedHub, address: str) -> int:
    """One-way calls at an address that the hub has counted as lost, and logged."""
    samples = await scrape(hub.http_port)
    place = {"address": address, "method": NOTE}
    count = samples.get(key("one_way_lost_total", **place, status="UNAVAILABLE"), 0)
    assert count == samples.get(key("calls_total", **place, status="UNAVAILABLE"), 0)
    log = hub.log_file.read_text().splitlines()
    lines = [
        line
        for line in log
        if "one-way call lost" in line and f"address={address} method={NOTE} " in line
    ]
    assert len(lines) == count
    return int(count)


async def failures(hub: WatchedHub, executed: str) -> float:
    labels = {"status": "UNAVAILABLE", "origin": "hub", "may_have_executed": executed}
    return (await scrape(hub.http_port)).get(key("call_failures_total", **labels), 0)


async def test_one_way_calls_that_wait_at_the_hub_go_to_another_host(hub: WatchedHub) -> None:
    address = "sessions/waiting"
    url = url_of(hub, "websocket", address)
    names = [f"note {number}" for number in range(10)]
    before = await failures(hub, "true")
    async with relayrpc.aio.channel(url) as channel:
        async with host_process(url, "websocket", "host", slots=1) as host:
            note = Stub(channel).unary_unary("Note")
            for name in names:
                await note(name.encode(), metadata=ONE_WAY)
            await host.said("started", names[0])
            await until(lambda: counts(hub, "queue_calls", 9, address=address))
            host.send_signal(signal.SIGKILL)
            await until(lambda: counts(hub, "hosts", 0, address=address))
        assert await lost_notes(hub, address) == 1
        async with host_process(url, "websocket", "later") as later:
            for name in names:
                later.tell("release", call=name)
            for name in names[1:]:
                await later.said("finished", name)
            await until(lambda: counts(hub, "calls_in_flight", 0, address=address))
            assert sorted(await served(later)) == names[1:]
    assert await lost_notes(hub, address) == 1
    assert await failures(hub, "true") == before + 1
    await until(lambda: is_deserted(hub))


@pytest.mark.parametrize("in_session", [False, True], ids=["alone", "in_session"])
async def test_one_way_calls_that_were_on_their_way(in_session: bool, hub: WatchedHub) -> None:
    """
    Of those that the host may have been handed each is lost; the others go to another host, each
    once, unless they belong to a session.
    """
    address = f"sessions/on-their-way/{in_session}"
    url = url_of(hub, "websocket", address)
    names = [f"note {number:02}" for number in range(30)]
    taken, sent = names[:2], names[2:]
    executed_before, not_executed_before = await failures(hub, "true"), await failures(hub, "false")
    async with (
        TCPProxy(hub.http_port) as proxy,
        host_process(
            url_of(hub, "websocket", address, port=proxy.port), "websocket", "host"
        ) as host,
        host_process(url, "websocket", "other", priority=1) as other,
        relayrpc.aio.channel(url) as channel,
    ):
        session = channel.session()
        note = Stub(session if in_session else channel).unary_unary("Note")
        for name in taken:
            await note(name.encode(), metadata=ONE_WAY)
            await host.said("started", name)
        proxy.stall()
        for name in sent:
            # More than leaves without an answer.
            await note(name.encode().ljust(60_000, b"\0"), metadata=ONE_WAY)
            other.tell("release", call=name)
        host.send_signal(signal.SIGKILL)
        proxy.cut()
        if in_session:
            await until(lambda: session.state is FAULTED)
        await until(lambda: is_settled(hub, address))
        lost = await lost_notes(hub, address)
        went_on = sorted(await served(other))
        if in_session:
            assert (lost, went_on) == (len(names), [])
        else:
            assert went_on
            assert lost > len(taken)
            assert went_on == sent[-len(went_on) :]
            assert lost + len(went_on) == len(names)
        executed = await failures(hub, "true") - executed_before
        not_executed = await failures(hub, "false") - not_executed_before
        # The session's own call is one that ran.
        assert executed + not_executed == lost + in_session
        assert bool(not_executed) == in_session
    await until(lambda: is_deserted(hub))


async def is_settled(hub: WatchedHub, address: str) -> bool:
    """Say whether only one host is left at an address, and no call."""
    samples = await scrape(hub.http_port)
    here = {"address": address}
    return (
        samples[key("hosts", **here)] == 1
        and not samples.get(key("calls_in_flight", **here))
        and not samples.get(key("queue_calls", **here))
        and not samples[key("links_parked")]
    )


# --- the caller ends ---

_CALLS = {
    "idle": (SERVICE, "Hold", "finished"),
    "unary": (SERVICE, "Hold", "started"),
    "plain": (SERVICE, "Plain", "started"),
    "responses": (SERVICE, "Feed", "started"),
    "requests": (SERVICE, "Collect", "received"),
    "callback": (SERVICE, "Call", "started"),
    "later callback": (SERVICE, "CallLater", "finished"),
    "holder": (NARROW, "Hold", "started"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
async def test_sessions_of_a_caller_that_ends(
    how: signal.Signals, door: str, hub: WatchedHub
) -> None:
    """The host has them faulted, closes their objects, and gives their places to others."""
    address = f"sessions/caller/{how.name}-{door}"
    url = url_of(hub, door, address)
    config = {"url": url, "carrier": door}
    async with host_process(url, door, "host") as host, relayrpc.aio.channel(url) as channel:
        async with peer_process("tests.e2e.session_caller", config, ready="ready") as caller:
            host.tell("release", call="idle")
            for name, (service, method, event) in _CALLS.items():
                caller.tell("call", call={"service": service, "method": method, "name": name})
                await host.said(event, name)
            for name in ("callback", "later callback"):
                await caller.said("asked", name)
            # One that is lost waits for the place, and one that is not.
            call = {"service": NARROW, "method": "Hold", "name": "waits"}
            caller.tell("call", call=call)
            await host.said("opening", "2")
            async with channel.session() as session:
                hold = Stub(session, NARROW).unary_unary("Hold")(b"served")
                await host.said("opening", "3")
                caller.send_signal(how)
                host.tell("release", call="served")
                assert await hold == b"served"
        for name, (_, _, event) in _CALLS.items():
            if event != "finished":
                await host.said("cancelled", name)
            assert (await host.said("over", name))["state"] == "FAULTED"
            await host.said("closed", name)
        told = await host.said("told", "later callback")
        assert (told["status"], told["executed"]) == ("UNAVAILABLE", True)
        await host.said("closed", "served")
        # An object's place is free when closing it has returned, which is told from within.
        for number in itertools.count():
            host.tell("count", call=f"after {number}")
            count = await host.said("count", f"after {number}")
            if (count["taken"], count["waiting"]) == (0, 0):
                break
        assert host.find("started", "waits") is None
        await until(lambda: counts(hub, "calls_in_flight", 0, address=address))
        assert await host.finished() == 0
        left = await host.said("left")
        assert left["tasks"] == []
    await until(lambda: is_deserted(hub))
