"""
A host with sessions, to be killed: `python -m tests.e2e.session_host CONFIG`. Its handlers say what
becomes of them, and go on when they are told to.

A session has the name of its first call. SIGTERM: the server is stopped, with CONFIG's grace.
Says: made and closed, of service objects; started, received (the first request of a stream),
finished, cancelled, told (how a callback ended), of calls; over, of sessions; opening, when one
is asked for; count, when told to: places of the throttles that are taken, or waited for; stopping;
left, at its end: what is taken still, and tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final

import grpc
import grpc.aio

import relayrpc
import relayrpc.aio
from tests.e2e.endings.lines import hear, say
from tests.support.relay import Stub, make_handlers
from tests.support.session_contract import SERVICE as ACCOUNT


__all__ = ["ACCOUNT", "EVENTS", "MESSAGES", "NARROW", "PADDING", "SERVICE"]

SERVICE: Final = "test.Service"
NARROW: Final = "test.Narrow"
"""The same, and has one session at a time."""
EVENTS: Final = "test.Events"
"""What callers serve."""
MESSAGES: Final = 96
PADDING: Final = bytes(16 * 1024)
"""So many of these are more than fits between a reader that stopped and its writer."""

_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


@relayrpc.service(instances="per_session", concurrency="multiple")
class Servicer:
    """Requests are the name of their call; zeros may follow."""

    def __init__(self) -> None:
        self._name = ""

    async def Hold(self, request: bytes, context: Any) -> bytes:
        with self._recorded(request.rstrip(b"\0").decode(), context) as name:
            await _gates[name].wait()
        return request

    async def Feed(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """More than its reader takes ahead."""
        with self._recorded(request.decode(), context):
            for _ in range(MESSAGES):
                yield PADDING

    async def Collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Read the first, the name, and the others when told to; answer how many there were."""
        with self._recorded((await anext(requests)).decode(), context) as name:
            say("received", call=name)
            await _gates[name].wait()
            return b"%d" % len([request async for request in requests])

    async def Chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        first = await anext(requests)
        with self._recorded(first.decode(), context):
            yield first
            async for request in requests:
                yield request

    async def Call(self, request: bytes, context: Any) -> bytes:
        """Answer what the caller answers."""
        with self._recorded(request.decode(), context) as name, _callback_told(name):
            answer: bytes = await _events(context.caller()).unary_unary("Ask")(request)
            return answer

    async def CallChat(self, request: bytes, context: Any) -> bytes:
        """The same, with a stream both ways."""
        with self._recorded(request.decode(), context) as name, _callback_told(name):
            chat = _events(context.caller()).stream_stream("Chat")()
            await chat.write(request)
            last = b""
            while (answer := await chat.read()) is not grpc.aio.EOF:
                last = answer
            return last

    async def CallLater(self, request: bytes, context: Any) -> bytes:
        """Return, and have the caller called by somebody else, for as long as the session is."""
        with self._recorded(request.decode(), context) as name:
            ask = _events(context.caller()).unary_unary("Ask")

        async def call() -> None:
            with contextlib.suppress(relayrpc.aio.RpcError), _callback_told(name):
                await ask(request)

        self._calling = asyncio.create_task(call())
        return request

    def Plain(self, request: bytes, context: Any) -> bytes:
        """On a thread: waits until its call is over."""
        with self._recorded(request.decode(), context) as name:
            over = threading.Event()
            context.add_callback(over.set)
            over.wait()
            say("cancelled", call=name)
        return request

    async def close(self) -> None:
        """Take a moment, as objects with connections do."""
        await asyncio.to_thread(say, "closed", call=self._name)

    @contextlib.contextmanager
    def _recorded(self, name: str, context: Any) -> Iterator[str]:
        session = context.session
        if session is not None and not self._name:
            self._name = name
            say("made", call=name)
            session.add_done_callback(
                lambda session: say("over", call=name, state=session.state.name)
            )
        say("started", call=name)
        try:
            yield name
        except (asyncio.CancelledError, GeneratorExit):
            say("cancelled", call=name)
            raise
        say("finished", call=name)


@contextlib.contextmanager
def _callback_told(name: str) -> Iterator[None]:
    try:
        yield
    except relayrpc.aio.RpcError as error:
        say("told", call=name, status=error.code().name, executed=error.may_have_executed)
        raise


def _events(channel: Any) -> Stub:
    return Stub(channel, EVENTS)


class _TellingThrottle(relayrpc.Throttle):
    """Says which session is asked for, by its number."""

    asked_count = 0

    async def take(self, kind: Any) -> None:
        if kind == "sessions":
            self.asked_count += 1
            say("opening", call=str(self.asked_count))
        await super().take(kind)


def _add_services(server: grpc.aio.Server) -> list[relayrpc.Throttle]:
    throttles = [relayrpc.Throttle(), _TellingThrottle(sessions=1)]
    for throttle, service in zip(throttles, (SERVICE, NARROW), strict=True):
        servicer = relayrpc.servicer(Servicer, throttle=throttle)
        behaviors = {
            "uu:Hold": servicer.Hold,
            "uu:Note": servicer.Hold,
            "us:Feed": servicer.Feed,
            "su:Collect": servicer.Collect,
            "ss:Chat": servicer.Chat,
            "uu:Call": servicer.Call,
            "uu:CallChat": servicer.CallChat,
            "uu:CallLater": servicer.CallLater,
            "uu:Plain": servicer.Plain,
        }
        server.add_registered_method_handlers(service, make_handlers(behaviors))
        if service == SERVICE:
            account = {"uu:Open": servicer.Hold, "uu:Close": servicer.Hold}
            server.add_registered_method_handlers(ACCOUNT, make_handlers(account))
    return throttles


async def _obey(throttles: list[relayrpc.Throttle]) -> None:
    async for command in hear():
        match command["event"]:
            case "release":
                _gates[command["call"]].set()
            case "count":
                taken = _total(throttle.counts for throttle in throttles)
                waiting = _total(throttle.waiting_counts for throttle in throttles)
                say("count", call=command["call"], taken=taken, waiting=waiting)


def _total(counts: Iterable[Mapping[Any, int]]) -> int:
    return sum(sum(each.values()) for each in counts)


async def _main(config: dict[str, Any]) -> None:
    server = relayrpc.aio.server(
        config["url"],
        carrier=config["carrier"],
        instance=config["instance"],
        priority=config["priority"],
        slots=config["slots"],
    )
    throttles = _add_services(server)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    obeying = asyncio.create_task(_obey(throttles))
    obeying.add_done_callback(lambda _: stop.set())
    say("serving")
    await stop.wait()
    # The test has seen enough when it says no more.
    grace = 0 if obeying.done() else config["grace"]
    stopping = asyncio.create_task(server.stop(grace))
    await asyncio.sleep(0)
    say("stopping")
    await stopping
    say(
        "left",
        taken=_total(throttle.counts for throttle in throttles),
        tasks=[repr(task) for task in asyncio.all_tasks() - {asyncio.current_task(), obeying}],
    )


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
