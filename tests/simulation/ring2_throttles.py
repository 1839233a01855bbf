"""
The second ring's throttles: hosts that do few things at once, and have the rest wait or refuse it.

Source: docs/reference/instances.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

import relayrpc
from relayrpc.endpoint.rpc_error import RpcError


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel


__all__ = ["Passage", "add_gate", "check_bounds", "check_idle", "draw_throttle", "pass_gate"]

_GATE: Final = "sim.Gate"


@dataclass(slots=True)
class Passage:
    """One call of a service that may have little room."""

    key: str
    runs: int = 0
    status: grpc.StatusCode | None = None
    details: str = ""
    may_have_executed: bool = True

    def check(self, *, may_be_lost: bool, may_be_refused: bool) -> None:
        """Judge it when nothing more can happen."""
        assert self.runs <= 1, f"ran more than once: {self}"
        if not self.may_have_executed:
            assert not self.runs, f"executed after all: {self}"
        match self.status:
            case grpc.StatusCode.OK:
                assert self.runs, f"OK, and never ran: {self}"
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert not self.may_have_executed, f"refused, yet executed: {self}"
                assert may_be_refused, f"the bounds are wide: {self}"
            case None | grpc.StatusCode.CANCELLED | grpc.StatusCode.DEADLINE_EXCEEDED:
                pass
            case _:
                may_be_lost = may_be_lost or self.details.endswith("has not come back")
                assert may_be_lost, f"nothing was lost: {self}"


def draw_throttle(rng: random.Random) -> relayrpc.Throttle:
    """Draw the bounds of one host."""
    return relayrpc.Throttle(
        calls=rng.randint(1, 3),
        sessions=rng.randint(1, 2),
        instances=rng.choice((None, 1, 2)),
        on_full=rng.choice(("queue", "queue", "reject")),
        queue_max=rng.choice((1, 3, 1_024)),
    )


def check_bounds(throttle: relayrpc.Throttle) -> None:
    """Assert that no more is going on than may."""
    for kind, count in throttle.counts.items():
        assert 0 <= count <= throttle.bounds[kind], f"{count} {kind} of {throttle.bounds}"
        waiting_count = throttle.waiting_counts[kind]
        assert waiting_count <= throttle.queue_max, f"{waiting_count} {kind} wait"


def check_idle(throttle: relayrpc.Throttle) -> None:
    """Assert that every place was given back."""
    counts, waiting_counts = throttle.counts, throttle.waiting_counts
    is_idle = not any((*counts.values(), *waiting_counts.values()))
    assert is_idle, f"places are taken still: {counts}, and there wait {waiting_counts}"


@relayrpc.service(instances="per_call", concurrency="single")
class _Gate:
    """The host's servicer: an object for each call."""

    def __init__(self, passages: dict[str, Passage]) -> None:
        self._passages = passages

    async def Pass(self, request: bytes, context: Any) -> bytes:
        self._passages[request.decode()].runs += 1
        await asyncio.sleep(0.2)
        return request


def add_gate(
    server: grpc.aio.Server, passages: dict[str, Passage], throttle: relayrpc.Throttle | None
) -> None:
    """Have a host serve calls through a throttle, which it shares with other services."""
    servicer = relayrpc.servicer(_Gate, factory=lambda: _Gate(passages), throttle=throttle)
    handler = grpc.unary_unary_rpc_method_handler(servicer.Pass)
    server.add_registered_method_handlers(_GATE, {"Pass": handler})


async def pass_gate(
    channel: Channel, passages: dict[str, Passage], rng: random.Random
) -> Passage:
    """Make one call; a channel that is closed meanwhile ends it."""
    passage = Passage(f"g{len(passages)}")
    passages[passage.key] = passage
    timeout_s = rng.choice((None, None, rng.uniform(0.0, 2.0)))
    request = passage.key.encode()
    try:
        call = channel.unary_unary(f"/{_GATE}/Pass")(request, timeout=timeout_s)
    except grpc.aio.UsageError:
        return passage
    try:
        with contextlib.suppress(asyncio.CancelledError):
            assert await call == request, passage
    except RpcError as exc:
        passage.may_have_executed = exc.may_have_executed
        passage.details = exc.details() or ""
    passage.status = await call.code()
    return passage
