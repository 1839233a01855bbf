"""
The second ring's sessions: calls, one-way calls and callbacks of one session each, and what must be
true of them whatever breaks.

Source: docs/reference/sessions.md, callbacks.md, one-way.md, instances.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

import relayrpc
from relayrpc.endpoint.rpc_error import RpcError
from relayrpc.endpoint.session import SessionState
from tests.simulation.ring2_one_way import Ledger, check_confirmed, one_way


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.session import Session
    from relayrpc.endpoint.throttle import Throttle


__all__ = ["Conversation", "add_listener", "add_notebook", "converse"]

# Their objects serve one call at a time, and any number.
_NOTEBOOK: Final = "sim.Notebook"
_BOARD: Final = "sim.Board"
_LISTENER: Final = "sim.Listener"
_STEPS: Final = ("Add", "Ask", "Note", "Nest")
_DEPTH_MAX: Final = 3
# Closing takes less where nothing is lost, and then whoever closes gives up.
_CLOSING_S: Final = 60.0


@dataclass(slots=True)
class Step:
    """One call of a session, as its caller and its host saw it."""

    method: str
    depth: int = 0
    """Callbacks that are still to come, each inside the one before."""
    size_bytes: int = 0
    runs: int = 0
    status: grpc.StatusCode | None = None
    details: str = ""
    may_have_executed: bool = True

    @property
    def reply(self) -> bytes:
        """What its handler answers."""
        return {"Add": b"+", "Ask": b"?", "Note": b"", "Nest": b"." * (self.depth + 1)}[self.method]


@dataclass(slots=True)
class Conversation:
    """One session."""

    key: str
    callback_timeout_s: float
    service: str = _NOTEBOOK
    size_max: int = 0
    """Of the largest requests, roughly; 0: all are small."""
    session: Session | None = None
    steps: list[Step] = field(default_factory=list)
    instances: set[str] = field(default_factory=set)
    objects_count: int = 0
    """Service objects that served it."""
    order: list[int] = field(default_factory=list)
    """Numbers of the steps in the order in which their handlers began."""
    was_aborted: bool = False
    fault: str = ""
    closing_s: float = 0.0
    """How long it took to close it."""

    def __str__(self) -> str:
        steps = ", ".join(
            f"{number} {step.method} {step.size_bytes} {step.status} {step.details!r} "
            f"ran {step.runs}"
            for number, step in enumerate(self.steps)
        )
        name = f"{self.service} session {self.key}"
        return f"{name} ({self.fault or 'no fault'}): {steps}; began {self.order}"

    def check(
        self, ledger: Ledger, *, may_be_lost: bool, may_be_refused: bool
    ) -> None:
        """
        Judge it when nothing more can happen.

        Args:
            ledger: What hubs said of one-way calls.
            may_be_lost: Hubs and hosts were stopped.
            may_be_refused: Bounds are so tight that it or a call of it may be refused.
        """
        assert len(self.instances) <= 1, f"more than one host: {self}"
        assert self.objects_count <= 1, f"more than one object: {self}"
        assert self.order == sorted(self.order), f"out of order: {self}"
        is_mild = not (may_be_lost or may_be_refused)
        # Its host was parked for longer than a call waits that may not.
        is_mild = is_mild and not (self.fault.endswith("has not come back") and not self.order)
        assert not (is_mild and self.fault), f"nothing was lost: {self}"
        is_over = self.closing_s < _CLOSING_S
        assert is_over or not is_mild, f"its end was not told, {self.closing_s:.3f} s: {self}"
        for number, step in enumerate(self.steps):
            assert step.runs <= 1, f"ran more than once: {self}"
            if not step.may_have_executed:
                assert not step.runs, f"executed after all: {self}"
            if step.status is grpc.StatusCode.OK:
                if step.method == "Note":
                    losses = ledger.losses[f"{self.key}/{number}"]
                    is_kept = is_mild and not self.was_aborted
                    check_confirmed(f"{self}", step.runs, losses, may_be_lost=not is_kept)
                else:
                    assert step.runs, f"OK, and never ran: {self}"
            elif step.status not in (None, grpc.StatusCode.CANCELLED):
                assert not is_mild, f"nothing was lost: {self}"
            if step.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert not step.may_have_executed, f"refused, yet executed: {self}"


@relayrpc.service(instances="per_session", concurrency="reentrant")
class _Notebook:
    """The host's servicer: an object for each session."""

    def __init__(self, instance: str, conversations: dict[str, Conversation]) -> None:
        self._instance = instance
        self._conversations = conversations
        self._key = ""

    def _begin(self, request: bytes) -> tuple[Conversation, Step]:
        key, number, _ = request.decode().split("/")
        conversation = self._conversations[key]
        if not self._key:
            self._key = key
            conversation.objects_count += 1
        assert self._key == key, f"the object of {self._key} serves {conversation}"
        conversation.instances.add(self._instance)
        conversation.order.append(int(number))
        step = conversation.steps[int(number)]
        step.runs += 1
        return conversation, step

    async def Add(self, request: bytes, context: Any) -> bytes:
        self._begin(request)
        return b"+"

    async def Note(self, request: bytes, context: Any) -> bytes:
        self._begin(request)
        await asyncio.sleep(0.01)
        return b""

    async def Ask(self, request: bytes, context: Any) -> bytes:
        conversation, _ = self._begin(request)
        answer = context.caller().unary_unary(f"/{_LISTENER}/Answer")
        return await answer(request, timeout=conversation.callback_timeout_s)

    async def Nest(self, request: bytes, context: Any) -> bytes:
        """Have the caller called back, who calls this object again."""
        conversation, step = self._begin(request)
        if not step.depth:
            return b"."
        nest = context.caller().unary_unary(f"/{_LISTENER}/Nest")
        return b"." + await nest(request, timeout=conversation.callback_timeout_s)


@relayrpc.service(instances="per_session", concurrency="multiple")
class _Board(_Notebook):
    """The same, for handlers side by side."""


class _Listener:
    """What the caller serves."""

    def __init__(self, conversations: dict[str, Conversation]) -> None:
        self._conversations = conversations

    async def Answer(self, request: bytes, context: Any) -> bytes:
        return b"?"

    async def Nest(self, request: bytes, context: Any) -> bytes:
        key, number, _ = request.decode().split("/")
        conversation = self._conversations[key]
        outer = conversation.steps[int(number)]
        return await _call(conversation, Step("Nest", outer.depth - 1))


def add_notebook(
    server: grpc.aio.Server,
    instance: str,
    conversations: dict[str, Conversation],
    throttle: Throttle | None,
) -> None:
    """Have a host serve sessions."""
    for service, cls in ((_NOTEBOOK, _Notebook), (_BOARD, _Board)):
        make = functools.partial(cls, instance, conversations)
        servicer = relayrpc.servicer(cls, factory=make, throttle=throttle)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in _STEPS
        }
        server.add_registered_method_handlers(service, handlers)


def add_listener(conversations: dict[str, Conversation], server: grpc.aio.Server) -> None:
    """Have a caller serve callbacks."""
    listener = _Listener(conversations)
    handlers = {
        "Answer": grpc.unary_unary_rpc_method_handler(listener.Answer),
        "Nest": grpc.unary_unary_rpc_method_handler(listener.Nest),
    }
    server.add_registered_method_handlers(_LISTENER, handlers)


async def converse(channel: Channel, conversation: Conversation, rng: random.Random) -> None:
    """Hold a session; a channel that is closed meanwhile ends it."""
    session = conversation.session = channel.session()
    conversation.service = rng.choice((_NOTEBOOK, _BOARD))
    try:
        for _ in range(rng.randint(1, 4)):
            steps = [_draw_step(conversation, rng) for _ in range(rng.randint(1, 4))]
            await asyncio.gather(*(_take_step(conversation, step) for step in steps))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0.0, 5.0))
    except grpc.aio.UsageError:
        # The channel was closed.
        conversation.was_aborted = True
    if rng.random() < 0.3:
        conversation.was_aborted = True
        session.abort()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await session.close()
    conversation.closing_s = loop.time() - began_s
    conversation.fault = session.fault
    conversation.session = None
    assert session.state in (SessionState.CLOSED, SessionState.FAULTED), f"{conversation}"


def _draw_step(conversation: Conversation, rng: random.Random) -> Step:
    method = rng.choice(_STEPS)
    depth = rng.randint(1, _DEPTH_MAX) if method == "Nest" else 0
    is_large = rng.random() < 0.3
    return Step(method, depth, rng.randrange(conversation.size_max + 1) if is_large else 0)


async def _take_step(conversation: Conversation, step: Step) -> None:
    with contextlib.suppress(RpcError, asyncio.CancelledError):
        await _call(conversation, step)


async def _call(conversation: Conversation, step: Step) -> bytes:
    """
    Make the next call of a session.

    Raises:
        RpcError, CancelledError: As the call ended.
        grpc.aio.UsageError: The session is closed.
    """
    session = conversation.session
    if session is None:
        raise grpc.aio.UsageError("the session is over")
    key = f"{conversation.key}/{len(conversation.steps)}"
    request = f"{key}/{'x' * step.size_bytes}".encode()
    conversation.steps.append(step)
    metadata = one_way(key) if step.method == "Note" else ()
    call = session.unary_unary(f"/{conversation.service}/{step.method}")(request, metadata=metadata)
    try:
        reply: bytes = await call
    except asyncio.CancelledError:
        # Whoever waited for it no longer does, and is told no more.
        step.status = grpc.StatusCode.CANCELLED
        raise
    except RpcError as exc:
        step.status = exc.code()
        step.may_have_executed = exc.may_have_executed
        step.details = exc.details() or ""
        raise
    step.status = await call.code()
    assert reply == step.reply, f"{reply[:40]!r} for {request[:40]!r}: {conversation}"
    return reply
