"""
The second ring's callbacks without a session: of all four shapes, over the line to whoever called,
and to many at once; and what must be true of them whatever breaks.

Source: docs/reference/callbacks.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

import relayrpc
from relayrpc.endpoint.anchor import LINE_METHOD
from relayrpc.endpoint.callback_set import CallbackSet
from relayrpc.endpoint.rpc_error import RpcError


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.link.link import Link


__all__ = [
    "Errand",
    "Errands",
    "Heard",
    "Watcher",
    "add_porter",
    "add_watcher",
    "check_lines",
    "run_errand",
]

_PORTER: Final = "sim.Porter"
_WATCHER: Final = "sim.Watcher"
_METHODS: Final = ("Answer", "Count", "Join", "Mirror", "Nest")
_DEPTH_MAX: Final = 3
_PARTS: Final = (b"a", b"bc", b"def")
# What is published in one call; more than waits for one caller.
_PUBLISHED_COUNT: Final = 6
_QUEUE_MAX: Final = 4


@dataclass(slots=True)
class Errand:
    """One call whose handler calls back."""

    key: str
    method: str
    callback_timeout_s: float
    depth: int = 1
    """Callbacks to come, each inside the one before."""
    runs: int = 0
    callbacks: int = 0
    """How often the caller was called back."""
    inner: Counter[str] = field(default_factory=Counter)
    """How often calls inside of callbacks ran, and callbacks inside of those."""
    status: grpc.StatusCode | None = None
    details: str = ""
    may_have_executed: bool = True

    def check(self, *, may_be_lost: bool) -> None:
        """Judge it when nothing more can happen."""
        assert self.runs <= 1, f"ran more than once: {self}"
        assert self.callbacks <= self.runs, f"called back more than once: {self}"
        assert max(self.inner.values(), default=0) <= 1, f"ran more than once: {self}"
        assert self.callbacks or not self.inner, f"inside of a callback that never ran: {self}"
        if not self.may_have_executed:
            assert not self.runs, f"executed after all: {self}"
        if self.status is grpc.StatusCode.OK:
            assert self.method == "Watch" or self.callbacks, f"OK without its callback: {self}"
            assert len(self.inner) == 2 * (self.depth - 1), f"OK without one inside: {self}"
        elif self.status not in (None, grpc.StatusCode.CANCELLED):
            # Its host was parked for longer than a call waits that may not.
            may_be_lost = may_be_lost or self.details.endswith("has not come back")
            assert may_be_lost, f"nothing was lost: {self}"


@dataclass(slots=True)
class Errands:
    """Those of one world."""

    by_key: dict[str, Errand] = field(default_factory=dict)
    processes: itertools.count[int] = field(default_factory=itertools.count)

    def draw(
        self, rng: random.Random, heard: Heard | None, *, callback_timeout_s: float
    ) -> Errand:
        """Begin another one; of a channel that may watch, with what it hears."""
        methods = _METHODS if heard is None or heard.has_asked else (*_METHODS, "Watch")
        errand = Errand(f"e{len(self.by_key)}", rng.choice(methods), callback_timeout_s)
        if errand.method == "Nest":
            errand.depth = rng.randint(2, _DEPTH_MAX)
        if heard is not None and errand.method == "Watch":
            heard.has_asked = True
        self.by_key[errand.key] = errand
        return errand


class Heard:
    """What one channel was told by hosts that publish: numbers, of each process."""

    def __init__(self) -> None:
        self.has_asked = False
        """Whoever asks twice is told twice."""
        self._by_process: dict[str, list[int]] = defaultdict(list)

    @property
    def count(self) -> int:
        """Return how many publications it heard."""
        return sum(map(len, self._by_process.values()))

    def hear(self, text: str) -> None:
        """Take what was published."""
        process, _, number = text.partition("/")
        self._by_process[process].append(int(number))

    def check(self) -> None:
        """Judge it: slow ones miss some, and nobody hears one twice, or late."""
        for numbers in self._by_process.values():
            assert numbers == sorted(set(numbers)), f"published in another order: {numbers}"


class _Stub:
    """Of what the caller serves."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.Answer = channel.unary_unary(f"/{_WATCHER}/Answer")
        self.Count = channel.unary_stream(f"/{_WATCHER}/Count")
        self.Join = channel.stream_unary(f"/{_WATCHER}/Join")
        self.Mirror = channel.stream_stream(f"/{_WATCHER}/Mirror")
        self.Nest = channel.unary_unary(f"/{_WATCHER}/Nest")
        self.Hear = channel.unary_unary(f"/{_WATCHER}/Hear")


@relayrpc.service(instances="single", concurrency="reentrant")
class _Porter:
    """The host's servicer: one object, for others while it waits on a callback."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._process = next(errands.processes)
        self.watchers = CallbackSet(_Stub, queue_max=_QUEUE_MAX, timeout_s=5.0)
        self._numbers = itertools.count()

    async def Run(self, request: bytes, context: Any) -> bytes:
        errand = self._errands.by_key[request.decode()]
        errand.runs += 1
        stub = context.callback(_Stub)
        timeout_s = errand.callback_timeout_s
        match errand.method:
            case "Answer":
                return await stub.Answer(request, timeout=timeout_s)
            case "Count":
                call = stub.Count(request, timeout=timeout_s)
                return b"".join([part async for part in call])
            case "Join":
                return await stub.Join(_parts(request), timeout=timeout_s)
            case "Mirror":
                call = stub.Mirror(_parts(request), timeout=timeout_s)
                return b"".join([part async for part in call])
            case "Nest":
                return await stub.Nest(request + b"/1", timeout=timeout_s)
        self.watchers.add(context)
        for number in itertools.islice(self._numbers, _PUBLISHED_COUNT):
            self.watchers.publish("Hear", f"{self._process}/{number}".encode())
        return request

    async def Nest(self, request: bytes, context: Any) -> bytes:
        """Serve the call that a callback makes, and call back from there."""
        key, _, level = request.decode().partition("/")
        errand = self._errands.by_key[key]
        errand.inner[f"call {level}"] += 1
        nest = context.callback(_Stub).Nest
        return await nest(f"{key}/{int(level) + 1}".encode(), timeout=errand.callback_timeout_s)


async def _parts(request: bytes) -> AsyncIterator[bytes]:
    yield request
    for part in _PARTS:
        await asyncio.sleep(0.001)
        yield part


class Watcher:
    """What the caller serves."""

    def __init__(self, errands: Errands, heard: Heard) -> None:
        self._errands = errands
        self._heard = heard
        self.channel: Channel | None = None
        """By which it calls while it is called back."""

    async def Answer(self, request: bytes, context: Any) -> bytes:
        self._errands.by_key[request.decode()].callbacks += 1
        return _answer(request)

    async def Count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self._errands.by_key[request.decode()].callbacks += 1
        async for part in _parts(request):
            yield part

    async def Join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        parts = [part async for part in requests]
        self._errands.by_key[parts[0].decode()].callbacks += 1
        return b"".join(parts)

    async def Mirror(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        is_first = True
        async for part in requests:
            if is_first:
                self._errands.by_key[part.decode()].callbacks += 1
                is_first = False
            yield part

    async def Nest(self, request: bytes, context: Any) -> bytes:
        key, _, level = request.decode().partition("/")
        errand = self._errands.by_key[key]
        if level == "1":
            errand.callbacks += 1
        else:
            errand.inner[f"callback {level}"] += 1
        if int(level) == errand.depth:
            return _answer(key.encode())
        assert self.channel is not None
        nest = self.channel.unary_unary(f"/{_PORTER}/Nest")
        timeout_s = errand.callback_timeout_s
        reply: bytes = await nest(request, timeout=timeout_s, wait_for_ready=True)
        return reply

    async def Hear(self, request: bytes, context: Any) -> bytes:
        self._heard.hear(request.decode())
        return b""


def _answer(request: bytes) -> bytes:
    return request + b"".join(_PARTS)


def add_porter(server: grpc.aio.Server, errands: Errands) -> CallbackSet[_Stub]:
    """Have a host serve calls that call back; returns whom it publishes to."""
    porter = _Porter(errands)
    handlers = {
        "Run": grpc.unary_unary_rpc_method_handler(porter.Run),
        "Nest": grpc.unary_unary_rpc_method_handler(porter.Nest),
    }
    server.add_registered_method_handlers(_PORTER, handlers)
    return porter.watchers


def check_lines(link: Link, watchers: Sized) -> None:
    """Assert that a host at rest holds no lines but to those that it publishes to."""
    lines_count = sum(call.method == LINE_METHOD for call in link._calls.values())
    assert lines_count <= len(watchers), f"{lines_count} lines to {len(watchers)} watchers"


def add_watcher(errands: Errands, heard: Heard, server: grpc.aio.Server) -> Watcher:
    """Have a caller serve callbacks; it is to be given its channel."""
    watcher = Watcher(errands, heard)
    handlers = {
        "Answer": grpc.unary_unary_rpc_method_handler(watcher.Answer),
        "Count": grpc.unary_stream_rpc_method_handler(watcher.Count),
        "Join": grpc.stream_unary_rpc_method_handler(watcher.Join),
        "Mirror": grpc.stream_stream_rpc_method_handler(watcher.Mirror),
        "Nest": grpc.unary_unary_rpc_method_handler(watcher.Nest),
        "Hear": grpc.unary_unary_rpc_method_handler(watcher.Hear),
    }
    server.add_registered_method_handlers(_WATCHER, handlers)
    return watcher


async def run_errand(channel: Channel, errand: Errand) -> None:
    """Make the call; a channel that is closed meanwhile ends it."""
    request = errand.key.encode()
    try:
        call = channel.unary_unary(f"/{_PORTER}/Run")(
            request, timeout=2 * errand.callback_timeout_s
        )
    except grpc.aio.UsageError:
        return
    try:
        with contextlib.suppress(asyncio.CancelledError):
            reply = await call
            expected = request if errand.method == "Watch" else _answer(request)
            assert reply == expected, f"{reply!r}: {errand}"
    except RpcError as exc:
        errand.may_have_executed = exc.may_have_executed
        errand.details = exc.details() or ""
    errand.status = await call.code()
