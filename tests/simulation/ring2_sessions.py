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


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.session import Session


__all__ = ["Conversation", "add_listener", "add_notebook", "converse"]

# Their objects serve one call at a time, and any number.
_NOTEBOOK: Final = "sim.Notebook"
_BOARD: Final = "sim.Board"
_LISTENER: Final = "sim.Listener"
_ONE_WAY: Final = (("relay-confirm", "hub"),)
_STEPS: Final = ("Add", "Ask", "Note")


@dataclass(slots=True)
class Step:
    """One call of a session, as its caller and its host saw it."""

    method: str
    size_bytes: int = 0
    runs: int = 0
    status: grpc.StatusCode | None = None
    may_have_executed: bool = True


@dataclass(slots=True)
class Conversation:
    """One session."""

    key: str
    service: str = _NOTEBOOK
    size_max: int = 0
    """Of the largest requests, roughly; 0: all are small."""
    steps: list[Step] = field(default_factory=list)
    instances: set[str] = field(default_factory=set)
    objects_count: int = 0
    """Service objects that served it."""
    order: list[int] = field(default_factory=list)
    """Numbers of the steps in the order in which their handlers began."""
    was_aborted: bool = False
    fault: str = ""

    def __str__(self) -> str:
        steps = ", ".join(
            f"{number} {step.method} {step.size_bytes} {step.status} ran {step.runs}"
            for number, step in enumerate(self.steps)
        )
        name = f"{self.service} session {self.key}"
        return f"{name} ({self.fault or 'no fault'}): {steps}; began {self.order}"

    def check(self, *, may_be_lost: bool) -> None:
        """Judge it when nothing more can happen."""
        assert len(self.instances) <= 1, f"more than one host: {self}"
        assert self.objects_count <= 1, f"more than one object: {self}"
        assert self.order == sorted(self.order), f"out of order: {self}"
        # Its host was parked for longer than a call waits that may not.
        may_be_lost = may_be_lost or (self.fault.endswith("has not come back") and not self.order)
        assert may_be_lost or not self.fault, f"nothing was lost: {self}"
        for step in self.steps:
            assert step.runs <= 1, f"ran more than once: {self}"
            if not step.may_have_executed:
                assert not step.runs, f"executed after all: {self}"
            if step.status is grpc.StatusCode.OK:
                is_kept = step.method != "Note" or not (may_be_lost or self.was_aborted)
                assert step.runs or not is_kept, f"OK, and never ran: {self}"
            elif step.method == "Ask" and step.status is grpc.StatusCode.UNKNOWN:
                assert step.runs, f"its callback failed, and it never ran: {self}"
            elif step.status not in (None, grpc.StatusCode.CANCELLED):
                assert may_be_lost, f"nothing was lost: {self}"


@relayrpc.service(instances="per_session", concurrency="reentrant")
class _Notebook:
    """The host's servicer: an object for each session."""

    def __init__(self, instance: str, conversations: dict[str, Conversation]) -> None:
        self._instance = instance
        self._conversations = conversations
        self._key = ""

    def _begin(self, request: bytes) -> bytes:
        key, number, _ = request.decode().split("/")
        conversation = self._conversations[key]
        if not self._key:
            self._key = key
            conversation.objects_count += 1
        assert self._key == key, f"the object of {self._key} serves {conversation}"
        conversation.instances.add(self._instance)
        conversation.order.append(int(number))
        conversation.steps[int(number)].runs += 1
        return request

    async def Add(self, request: bytes, context: Any) -> bytes:
        return self._begin(request)

    async def Note(self, request: bytes, context: Any) -> bytes:
        self._begin(request)
        await asyncio.sleep(0.01)
        return b""

    async def Ask(self, request: bytes, context: Any) -> bytes:
        self._begin(request)
        answer = context.caller().unary_unary(f"/{_LISTENER}/Answer")
        return await answer(request, timeout=30.0)


@relayrpc.service(instances="per_session", concurrency="multiple")
class _Board(_Notebook):
    """The same, for handlers side by side."""


class _Listener:
    """What the caller serves."""

    async def Answer(self, request: bytes, context: Any) -> bytes:
        return request[::-1]


def add_notebook(
    server: grpc.aio.Server, instance: str, conversations: dict[str, Conversation]
) -> None:
    """Have a host serve sessions."""
    for service, cls in ((_NOTEBOOK, _Notebook), (_BOARD, _Board)):
        make = functools.partial(cls, instance, conversations)
        servicer = relayrpc.servicer(cls, factory=make)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in _STEPS
        }
        server.add_registered_method_handlers(service, handlers)


def add_listener(_: None, server: grpc.aio.Server) -> None:
    """Have a caller serve callbacks."""
    handler = grpc.unary_unary_rpc_method_handler(_Listener().Answer)
    server.add_registered_method_handlers(_LISTENER, {"Answer": handler})


async def converse(channel: Channel, conversation: Conversation, rng: random.Random) -> None:
    """Hold a session; a channel that is closed meanwhile ends it."""
    session = channel.session()
    conversation.service = rng.choice((_NOTEBOOK, _BOARD))
    try:
        for _ in range(rng.randint(1, 4)):
            numbers = range(len(conversation.steps), len(conversation.steps) + rng.randint(1, 4))
            conversation.steps += [_draw_step(conversation, rng) for _ in numbers]
            await asyncio.gather(*(_step(session, conversation, number) for number in numbers))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0.0, 5.0))
    except grpc.aio.UsageError:
        # The channel was closed.
        conversation.was_aborted = True
    if rng.random() < 0.3:
        conversation.was_aborted = True
        session.abort()
    await session.close()
    conversation.fault = session.fault
    assert session.state in (SessionState.CLOSED, SessionState.FAULTED), f"{conversation}"


def _draw_step(conversation: Conversation, rng: random.Random) -> Step:
    is_large = rng.random() < 0.3
    return Step(rng.choice(_STEPS), rng.randrange(conversation.size_max + 1) if is_large else 0)


async def _step(session: Session, conversation: Conversation, number: int) -> None:
    step = conversation.steps[number]
    metadata = _ONE_WAY if step.method == "Note" else ()
    request = f"{conversation.key}/{number}/{'x' * step.size_bytes}".encode()
    call = session.unary_unary(f"/{conversation.service}/{step.method}")(request, metadata=metadata)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            reply = await call
            expected = {"Add": request, "Ask": request[::-1], "Note": b""}[step.method]
            assert reply == expected, f"{reply[:40]!r} for {request[:40]!r}: {conversation}"
    except RpcError as exc:
        step.may_have_executed = exc.may_have_executed
    step.status = await call.code()
