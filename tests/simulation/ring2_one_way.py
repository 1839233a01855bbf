"""
The second ring's one-way calls: what hubs confirmed, what ran, and what hubs said was lost.

Source: docs/reference/one-way.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from relayrpc.endpoint.rpc_error import RpcError, status_name
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.one_way import was_taken_over
from relayrpc.link.call import CallOutcome
from tests.simulation.ring2_calls import NOBODY_ANSWERS
from tests.simulation.ring2_host import HandlerError


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.hub.routing import Registration
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["Ledger", "Remark", "add_clerk", "one_way", "remark"]

_CLERK: Final = "sim.Clerk"
_KEY: Final = "sim-one-way"
# The last comes in pieces: an ordinary call.
_SIZES: Final = (0, 1_000, 70_000)
_ONE_PIECE_MAX: Final = 1_000
_NOT_BACK: Final = "has not come back"


def one_way(key: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a one-way call that hubs keep books of."""
    return (("relay-confirm", "hub"), (_KEY, key))


@dataclass(frozen=True, slots=True)
class Loss:
    """A call that a hub had confirmed and that did not end with OK, as the hub's log has it."""

    status: str
    details: str
    may_have_executed: bool


@dataclass(slots=True)
class Remark:
    """One one-way call outside of sessions."""

    key: str
    size: int
    runs: int = 0
    status: grpc.StatusCode | None = None
    details: str = ""
    may_have_executed: bool = True

    @property
    def takes_s(self) -> float:
        """How long its handler takes; some are lost with their host meanwhile."""
        return zlib.crc32(self.key.encode()) % 100 / 25

    @property
    def fails(self) -> bool:
        """Its handler raises, and nobody is told but the logs."""
        return zlib.crc32(self.key.encode()) % 5 == 0

    def check(self, losses: list[Loss], *, may_be_lost: bool) -> None:
        """Judge it when nothing more can happen."""
        assert self.runs <= 1, f"ran more than once: {self}"
        if not self.may_have_executed:
            assert not self.runs, f"executed after all: {self}"
        if self.status is grpc.StatusCode.OK:
            check_confirmed(str(self), self.runs, losses, may_be_lost=may_be_lost)
        elif self.status is grpc.StatusCode.UNKNOWN:
            is_told = self.size > _ONE_PIECE_MAX and self.fails and self.runs
            assert is_told, f"nobody can have said this: {self}"
        elif self.status not in (None, grpc.StatusCode.DEADLINE_EXCEEDED):
            # Nobody waits for ever who has not asked to; the large ones are ordinary calls.
            is_told = self.details == NOBODY_ANSWERS or self.details.endswith(_NOT_BACK)
            assert may_be_lost or (is_told and not self.runs), f"nothing was lost: {self}"


def check_confirmed(what: str, runs: int, losses: list[Loss], *, may_be_lost: bool) -> None:
    """
    Judge a call that a hub confirmed.

    Args:
        what: For the failure.
        runs: How often it ran.
        losses: What hubs said of it.
        may_be_lost: A host or a hub was, or had no room.
    """
    assert len(losses) <= 1, f"lost {len(losses)} times: {what} {losses}"
    for loss in losses:
        assert loss.may_have_executed or not runs, f"executed after all: {what} {loss}"
    if not runs:
        assert losses, f"confirmed, and neither ran nor was missed: {what}"
        # No host came back in the time that it is kept.
        is_late = losses[0].details.endswith(_NOT_BACK)
        assert may_be_lost or is_late, f"nothing was lost: {what} {losses}"


@dataclass(slots=True)
class Ledger(HubObserver):
    """Those of one world, and what all its hubs said of them."""

    remarks: dict[str, Remark] = field(default_factory=dict)
    losses: dict[str, list[Loss]] = field(default_factory=lambda: defaultdict(list))
    # Calls that some hub has.
    _open: dict[Call, str] = field(default_factory=dict)

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        for entry in opening.metadata:
            if entry.key == _KEY:
                self._open[call] = entry.value.decode()

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        key = self._open.pop(call, None)
        if key is not None and end.status and was_taken_over(call):
            outcome = CallOutcome.from_end(end)
            loss = Loss(status_name(end.status), outcome.details, outcome.may_have_executed)
            self.losses[key].append(loss)

    def check(self, *, may_be_lost: bool) -> None:
        """Judge all of them when nothing more can happen."""
        assert not self._open, f"hubs hold calls still: {self._open}"
        for key, each in self.remarks.items():
            each.check(self.losses[key], may_be_lost=may_be_lost)


class _Clerk:
    """The host's servicer."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def Take(self, request: bytes, context: Any) -> bytes:
        each = self._ledger.remarks[request.decode().rstrip()]
        each.runs += 1
        await asyncio.sleep(each.takes_s)
        if each.fails:
            raise HandlerError
        return b""


def add_clerk(server: grpc.aio.Server, ledger: Ledger) -> None:
    """Have a host serve one-way calls."""
    handler = grpc.unary_unary_rpc_method_handler(_Clerk(ledger).Take)
    server.add_registered_method_handlers(_CLERK, {"Take": handler})


async def remark(channel: Channel, ledger: Ledger, rng: random.Random) -> Remark:
    """Make one call; a channel that is closed meanwhile ends it."""
    each = Remark(f"n{len(ledger.remarks)}", rng.choice(_SIZES))
    ledger.remarks[each.key] = each
    request = each.key.encode().ljust(each.size)
    timeout_s = rng.choice((None, None, rng.uniform(0.0, 5.0)))
    try:
        call = channel.unary_unary(f"/{_CLERK}/Take")(
            request,
            timeout=timeout_s,
            metadata=one_way(each.key),
            wait_for_ready=rng.random() < 0.5,
        )
    except grpc.aio.UsageError:
        return each
    try:
        with contextlib.suppress(asyncio.CancelledError):
            assert await call == b"", each
    except RpcError as exc:
        each.may_have_executed = exc.may_have_executed
        each.details = exc.details() or ""
    each.status = await call.code()
    return each
