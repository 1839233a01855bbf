"""
Bugs to plant in the core, one at a time, and the check of ring 1 that must find each.

Owns: the bugs and the hunt for them. Does not own: the checks (ledger.py, invariants.py, apps.py).
Each bug replaces one method by a wrong one for as long as its context lasts; the right code stands
in relayrpc/link and relayrpc/hub. The same table is in docs/explanation/simulation.md.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from relayrpc.hub.forward import Forwarder
from relayrpc.link import link as link_module
from relayrpc.link.batch_log import BatchLog
from relayrpc.link.call import Call, CallState
from relayrpc.link.call_receiver import CallReceiver
from relayrpc.link.call_table import CallTable
from relayrpc.link.calls import LinkCalls
from relayrpc.link.deadlines import DeadlineBuckets
from relayrpc.link.flow import Budget
from relayrpc.link.frames import encode_again, encode_frame
from relayrpc.link.link import Link
from relayrpc.link.names import NamesIn
from relayrpc.link.outbox import Outbox
from relayrpc.v1 import link_pb2 as pb
from tests.simulation.ring1 import run_seed
from tests.simulation.world import SimulationFailure


__all__ = ["BUGS", "Bug", "find"]


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug."""

    name: str
    check: str
    """Name of the check that must find it."""
    plant: Callable[[], AbstractContextManager[object]]


def find(bug: Bug, seeds: range) -> int | None:
    """
    Plant a bug and run worlds until the check that is named for it has failed in one.

    A world may fail by another check first: a lost batch is many things. The hunt goes on then.

    Returns:
        The seed; None when no world found it.
    """
    with bug.plant():
        for seed in seeds:
            try:
                run_seed(seed)
            except Exception as failure:
                if isinstance(failure, SimulationFailure) and failure.check == bug.check:
                    return seed
    return None


BUGS: Final[list[Bug]] = []


def _bug(check: str) -> Callable[[Callable[[], Iterator[None]]], Callable[[], Iterator[None]]]:
    """Enter a bug in the table; its name is that of the function."""

    def enter(plant: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
        name = plant.__name__.replace("_", " ").strip()
        BUGS.append(Bug(name, check, contextlib.contextmanager(plant)))
        return plant

    return enter


def _replaced(owner: object, name: str, wrong: Any) -> AbstractContextManager[object]:
    return mock.patch.object(owner, name, wrong)


# --- batches ---


@_bug("progress")
def acks_are_lost() -> Iterator[None]:
    """Every batch says that nothing has been received."""
    right = BatchLog.ack_to_send

    def ack_to_send(self: BatchLog) -> int:
        right(self)
        return 0

    with _replaced(BatchLog, "ack_to_send", ack_to_send):
        yield


@_bug("message-intact")
def duplicate_batch_is_accepted() -> Iterator[None]:
    right = BatchLog.receive

    def receive(self: BatchLog, number: int, size_bytes: int, *, now_s: float) -> bool:
        right(self, number, size_bytes, now_s=now_s)
        return True

    with _replaced(BatchLog, "receive", receive):
        yield


@_bug("protocol")
def resume_skips_a_batch() -> Iterator[None]:
    """The batch in flight when the carrier was lost is taken for received."""
    right = BatchLog.resume

    def resume(self: BatchLog, received_number: int, **options: Any) -> bool:
        is_held = right(self, received_number, **options)
        self._again = deque(list(self._again)[1:])
        return is_held

    with _replaced(BatchLog, "resume", resume):
        yield


@_bug("progress")
def resume_sends_nothing_again() -> Iterator[None]:
    """What was on its way is left to the old carrier; later batches are held back for its acks."""
    right = BatchLog.resume

    def resume(self: BatchLog, received_number: int, **options: Any) -> bool:
        is_held = right(self, received_number, **options)
        self._again.clear()
        return is_held

    with _replaced(BatchLog, "resume", resume):
        yield


@_bug("protocol")
def welcome_claims_one_batch_too_many() -> Iterator[None]:
    right = Link.accept_resume

    def accept_resume(
        self: Link, resume: pb.Resume, *, now_s: float, websocket_url: str = ""
    ) -> str:
        refusal = right(self, resume, now_s=now_s, websocket_url=websocket_url)
        if not refusal:
            self._unnumbered[-1].welcome.received += 1
        return refusal

    with _replaced(Link, "accept_resume", accept_resume):
        yield


@_bug("protocol")
def names_are_forgotten_at_a_resume() -> Iterator[None]:
    right = Link._carrier_taken

    def carrier_taken(self: Link, now_s: float) -> None:
        right(self, now_s)
        self._names_in = NamesIn(self.limits)

    with _replaced(Link, "_carrier_taken", carrier_taken):
        yield


@_bug("deadline-late")
def age_of_a_batch_sent_again_is_not_told() -> Iterator[None]:
    def without_age(batch: bytes, *, ack: int, age_ms: int) -> bytes:
        return encode_again(batch, ack=ack, age_ms=0)

    with _replaced(link_module, "encode_again", without_age):
        yield


# --- calls ---


@_bug("protocol")
def call_id_is_used_twice() -> Iterator[None]:
    """Every fifth call gets the id of the one before, when that is over."""
    right = CallTable.take_call_id

    def take_call_id(self: CallTable, call: Call) -> int:
        last = self._call_id_last
        if last > 0 and last % 10 == 9 and last not in self._calls:
            self._call_id_last -= 2
        return right(self, call)

    with _replaced(CallTable, "take_call_id", take_call_id):
        yield


@_bug("message-lost")
def end_overtakes_data() -> Iterator[None]:
    right = CallTable.forward_end

    def forward_end(
        self: CallTable, call: Call, frame: pb.Frame, *, discard: bool = False
    ) -> None:
        right(self, call, frame, discard=True)

    with _replaced(CallTable, "forward_end", forward_end):
        yield


@_bug("message-lost")
def half_close_overtakes_data() -> Iterator[None]:
    right = LinkCalls.half_close

    def half_close(self: LinkCalls, call: Call) -> None:
        if not call.id or not call.unsent_bytes:
            right(self, call)
        elif call.state in (CallState.CALLING, CallState.CALLING_BEGUN):
            call.state += 2
            self._outbox.add_control(encode_frame(pb.Frame(call_id=call.id, half_close=True)))

    with _replaced(LinkCalls, "half_close", half_close):
        yield


@_bug("cancelled-delivered")
def cancelled_call_still_leaves() -> Iterator[None]:
    """A call that is cancelled before its OPEN went out keeps its place in the outbox."""
    right = CallTable.cancel_call

    def cancel_call(self: CallTable, call: Call, **options: Any) -> None:
        if call.id or options.get("reason") == pb.Cancel.REASON_DEADLINE:
            right(self, call, **options)
        else:
            call.state = int(CallState.ENDED)

    with _replaced(CallTable, "cancel_call", cancel_call):
        yield


@_bug("order-key")
def order_key_is_ignored() -> Iterator[None]:
    """Of calls that wait for a batch, the last one opened goes first."""
    right = Outbox.add_opening

    def add_opening(self: Outbox, call: Call, *, data_bytes: int, is_ordered: bool) -> None:
        right(self, call, data_bytes=data_bytes, is_ordered=False)
        if is_ordered and self._control and self._control[-1] is call:
            self._control.insert(0, self._control.pop())

    with _replaced(Outbox, "add_opening", add_opening):
        yield


@_bug("credit")
def sender_overdraws_its_credit() -> Iterator[None]:
    right = Outbox._cut_data

    def cut_data(self: Outbox, parts: list[bytes], call: Call, size_max: int, room: int) -> int:
        if call.unsent_bytes:
            call.send_credit_bytes += 100
        return right(self, parts, call, size_max, room)

    with _replaced(Outbox, "_cut_data", cut_data):
        yield


@_bug("message-intact")
def fragments_change_places() -> Iterator[None]:
    """What is left of a piece goes to the end of its call's queue."""
    right = Outbox._take

    def take(self: Outbox, call: Call, size: int) -> list[bytes]:
        pieces = right(self, call, size)
        if call.queue:
            call.queue.rotate(-1)
        return pieces

    with _replaced(Outbox, "_take", take):
        yield


@_bug("not-executed")
def what_is_not_acknowledged_counts_as_not_given() -> Iterator[None]:
    """When a link ends, an OPEN without an ack is called not executed."""

    def was_given(self: CallTable, call: Call) -> bool:
        return 0 < call.open_number <= self.log.acknowledged_number

    with _replaced(CallTable, "was_given", was_given):
        yield


# --- deadlines ---


@_bug("deadline-late")
def deadlines_are_not_looked_at() -> Iterator[None]:
    def expired(self: DeadlineBuckets, *, now_s: float) -> list[Call]:
        return []

    def next_s(self: DeadlineBuckets) -> None:
        return None

    with (
        _replaced(DeadlineBuckets, "expired", expired),
        _replaced(DeadlineBuckets, "next_s", next_s),
    ):
        yield


@_bug("deadline-early")
def coarse_bucket_ends_all_its_calls() -> Iterator[None]:
    right = DeadlineBuckets.expired

    def expired(self: DeadlineBuckets, *, now_s: float) -> list[Call]:
        due = right(self, now_s=now_s)
        if due:
            last = [call for bucket in self._buckets.values() for call in bucket]
            due += [call for call in last if (call.deadline_s or 0.0) < now_s + 1.0]
            for call in last:
                self.discard(call)
        return due

    with _replaced(DeadlineBuckets, "expired", expired):
        yield


@_bug("leak")
def deadline_of_an_ended_call_stays() -> Iterator[None]:
    with _replaced(DeadlineBuckets, "discard", lambda self, call: None):
        yield


# --- credit and budget ---


@_bug("progress")
def grant_is_lost_when_the_budget_is_full() -> Iterator[None]:
    with _replaced(Forwarder, "serve_starved", lambda self: None):
        yield


@_bug("progress")
def grant_without_bytes_to_send_is_lost() -> Iterator[None]:
    """The counter takes a grant only while something waits for it."""
    right = CallReceiver._receive_grant

    def receive_grant(self: CallReceiver, frame: pb.Frame) -> None:
        call = self._calls.get(frame.call_id)
        before = 0 if call is None else call.send_credit_bytes
        right(self, frame)
        if call is not None and not call.unsent_bytes:
            call.send_credit_bytes = before

    with (
        _replaced(CallReceiver, "_receive_grant", receive_grant),
        mock.patch.dict(link_module._NUMBERED, {"grant": receive_grant}),
    ):
        yield


@_bug("budget")
def hub_passes_on_more_credit_than_it_charges() -> Iterator[None]:
    right = Budget.charge_credit

    def charge_credit(self: Budget, call: Call, wanted_bytes: int) -> int:
        right(self, call, wanted_bytes)
        return wanted_bytes

    with _replaced(Budget, "charge_credit", charge_credit):
        yield


@_bug("budget-leak")
def budget_is_never_given_back() -> Iterator[None]:
    with _replaced(Budget, "release", lambda self, call, size_bytes: None):
        yield


@_bug("budget-leak")
def budget_of_an_ended_call_is_kept() -> Iterator[None]:
    right = Outbox.discard

    def discard(self: Outbox, call: Call) -> None:
        budget, self._budget = self._budget, None
        right(self, call)
        self._budget = budget

    with _replaced(Outbox, "discard", discard):
        yield


@_bug("agreement")
def every_end_claims_to_come_from_the_host() -> Iterator[None]:
    """An END that a hub makes carries neither its origin nor that nothing was executed."""
    right = CallTable.forward_end

    def forward_end(
        self: CallTable, call: Call, frame: pb.Frame, *, discard: bool = False
    ) -> None:
        frame.end.origin = pb.End.ORIGIN_HOST
        frame.end.not_executed = False
        right(self, call, frame, discard=discard)

    with _replaced(CallTable, "forward_end", forward_end):
        yield
