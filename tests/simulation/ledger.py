"""
What is known of every call from outside, and what must be true of it.

Owns: one record a call, filled in by the applications at both ends, and the checks that compare
them. It never reads the relay's own tables. Source: DESIGN.md decision 6, "What a caller is told".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    CallOutcome,
)


if TYPE_CHECKING:
    from relayrpc.v1 import link_pb2 as pb
    from tests.simulation.scripts import CallScript
    from tests.simulation.world import World


__all__ = ["CallRecord", "Handling", "Ledger"]

# A deadline is looked at every hundredth of a second, and never early.
_DEADLINE_SLACK_S: Final = 0.021
# The age of a batch travels in whole milliseconds, rounded up, once a leg.
_DEADLINE_EARLY_S: Final = 0.002_1


@dataclass(eq=False, slots=True)
class Handling:
    """One start of a handler on a host."""

    host: str
    link_key: str
    """Which link the call came on."""
    started_s: float
    deadline_s: float | None
    """World time at which this host believes the call must be over."""
    requests_count: int = 0
    """Whole requests that arrived."""
    has_half_close: bool = False
    responses_count: int = 0
    """Responses handed to the link."""
    end_status: int | None = None
    """What the handler ended with; None: it did not."""
    told_status: int | None = None
    """What the link told it when the call ended otherwise."""
    is_dead: bool = False
    """Its process is gone."""

    @property
    def is_over(self) -> bool:
        """True when the handler has nothing more to do."""
        return self.is_dead or self.end_status is not None or self.told_status is not None


@dataclass(eq=False, slots=True)
class CallRecord:
    """One call."""

    script: CallScript
    caller: str
    link_key: str
    opened_s: float
    order: int
    """Of the openings in this world."""
    deadline_s: float | None
    requests_count: int = 0
    """Requests handed to the link."""
    is_half_closed: bool = False
    responses_count: int = 0
    """Whole responses that arrived."""
    is_mid_message: bool = False
    """The stream of responses stopped within a message."""
    outcome: CallOutcome | None = None
    ended_s: float | None = None
    is_cancelled: bool = False
    """The caller cancelled: it is told nothing more."""
    was_sent: bool = True
    """False when it was cancelled before its OPEN left."""
    is_dead: bool = False
    """The caller's process is gone."""
    handlings: list[Handling] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """True when the caller has its end."""
        return self.outcome is not None or self.is_cancelled or self.is_dead


class Ledger:
    """All calls of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.records: dict[str, CallRecord] = {}
        self.open_count = 0
        # Per (caller's link, host's link, key): the last order started.
        self._started_orders: dict[tuple[str, str, str], int] = {}

    # --- the caller's end ---

    def opened(
        self, script: CallScript, *, caller: str, link_key: str, deadline_s: float | None
    ) -> CallRecord:
        """Note a call that is being opened."""
        record = CallRecord(
            script, caller, link_key, self.world.now_s, len(self.records), deadline_s
        )
        self.records[script.call_id] = record
        self.open_count += 1
        self.world.note("open", script.call_id, link_key)
        return record

    def caller_ended(self, record: CallRecord, end: pb.End) -> None:
        """Note the end a caller was told; the first and last one."""
        world, call_id = self.world, record.script.call_id
        outcome = CallOutcome.from_end(end)
        world.note("end", call_id, outcome.status, outcome.origin, outcome.may_have_executed)
        if record.is_over:
            how = "it cancelled" if record.is_cancelled else "its end"
            world.fail("caller-ends-once", f"{call_id}: the caller was told an end after {how}")
        record.outcome = outcome
        self._caller_over(record)
        world.seen[f"end {outcome.status} by {outcome.origin}"] += 1
        self._check_deadline(record, outcome)
        self._check_complete(record, outcome, end)

    def caller_cancelled(self, record: CallRecord, *, was_sent: bool) -> None:
        """Note that a caller cancelled."""
        self.world.note("cancel", record.script.call_id)
        record.is_cancelled = True
        record.was_sent = was_sent
        self._caller_over(record)
        self._check_deadline(record, None)

    def caller_died(self, record: CallRecord) -> None:
        """Note that a caller's process is gone."""
        if not record.is_over:
            record.is_dead = True
            self._caller_over(record)

    def _caller_over(self, record: CallRecord) -> None:
        record.ended_s = self.world.now_s
        self.open_count -= 1

    def _check_deadline(self, record: CallRecord, outcome: CallOutcome | None) -> None:
        world, call_id = self.world, record.script.call_id
        deadline_s = record.deadline_s
        late_s = 0.0 if deadline_s is None else world.now_s - deadline_s
        if late_s > _DEADLINE_SLACK_S:
            world.fail("deadline-late", f"{call_id}: over {late_s:.3f} s after its deadline")
        if outcome is None or outcome.status != STATUS_DEADLINE_EXCEEDED:
            return
        if deadline_s is None or late_s < -_DEADLINE_EARLY_S:
            world.fail("deadline-early", f"{call_id}: DEADLINE_EXCEEDED {-late_s:.3f} s early")

    def _check_complete(self, record: CallRecord, outcome: CallOutcome, end: pb.End) -> None:
        """An end that a handler made comes whole, with everything the handler sent before."""
        world, call_id = self.world, record.script.call_id
        if outcome.origin != "host":
            return
        if not outcome.may_have_executed:
            # The host's link refused it; no handler ran.
            return
        handling = record.handlings[-1] if record.handlings else None
        if handling is not None and handling.told_status == STATUS_DEADLINE_EXCEEDED:
            # The host's link ended it at the deadline, and its word came first.
            return
        if handling is None or handling.end_status is None:
            world.fail("agreement", f"{call_id}: an end from a host that ended nothing")
            return
        if handling.end_status != outcome.status:
            text = f"{call_id}: ended {outcome.status}, the host said {handling.end_status}"
            world.fail("agreement", text)
        expected = (("sim-trailer", call_id.encode()),)
        if outcome.trailing_metadata != expected or (
            outcome.details != (f"status of {call_id}" if outcome.status else "")
        ):
            world.fail("agreement", f"{call_id}: trailers or details are not the host's")
        if record.responses_count != handling.responses_count or record.is_mid_message:
            world.fail(
                "message-lost",
                f"{call_id}: {record.responses_count} responses arrived before the end, "
                f"{handling.responses_count} were sent",
            )

    # --- the host's end ---

    def started(self, call_id: str, handling: Handling) -> CallRecord:
        """Note that a host was handed a call."""
        world = self.world
        world.note("start", call_id, handling.link_key)
        record = self.records.get(call_id)
        if record is None:
            world.fail("started-once", f"{call_id}: started, but nobody opened it")
            raise AssertionError
        if record.handlings:
            world.fail("started-once", f"{call_id}: started twice")
        if not record.was_sent:
            world.fail("cancelled-delivered", f"{call_id}: started, but cancelled before it left")
        record.handlings.append(handling)
        key = record.script.order_key
        if key:
            pair = (record.link_key, handling.link_key, key)
            if self._started_orders.get(pair, -1) > record.order:
                world.fail("order-key", f"{call_id}: started after a later call of key {key!r}")
            self._started_orders[pair] = record.order
        return record

    def host_ended(self, record: CallRecord, handling: Handling, *, told: int | None) -> None:
        """Note that a handler is over: by itself (`told` None) or by what its link told it."""
        world, call_id = self.world, record.script.call_id
        world.note("host end", call_id, handling.end_status if told is None else f"told {told}")
        if told is not None:
            if handling.is_over:
                world.fail("host-ends-once", f"{call_id}: the host was told an end after its end")
            handling.told_status = told
            world.seen[f"host told {told}"] += 1
        if handling.deadline_s is not None:
            # A call may arrive after its deadline, when its batch is sent again.
            late_s = world.now_s - max(handling.deadline_s, handling.started_s)
            if late_s > _DEADLINE_SLACK_S:
                world.fail("deadline-late", f"{call_id}: its handler was over {late_s:.3f} s late")

    # --- afterwards ---

    def check_final(self, *, transit_s_max: float) -> None:
        """Check what only shows when nothing moves any more."""
        for record in self.records.values():
            call_id = record.script.call_id
            if not record.is_over:
                self.world.fail("progress", f"{call_id}: never ended at its caller")
            for handling in record.handlings:
                self._check_handling(record, handling, transit_s_max)
            outcome = record.outcome
            if outcome is not None and not outcome.may_have_executed and record.handlings:
                self.world.fail(
                    "not-executed",
                    f"{call_id}: said not to have run ({outcome.details}), but it was started",
                )

    def _check_handling(
        self, record: CallRecord, handling: Handling, transit_s_max: float
    ) -> None:
        world, call_id = self.world, record.script.call_id
        if not handling.is_over:
            world.fail("progress", f"{call_id}: its handler was never told that it is over")
        if handling.has_half_close and handling.requests_count != record.requests_count:
            world.fail(
                "message-lost",
                f"{call_id}: {handling.requests_count} requests before the half close, "
                f"{record.requests_count} were sent",
            )
        if handling.deadline_s is not None and record.deadline_s is not None:
            late_s = handling.deadline_s - record.deadline_s
            if late_s > 2 * transit_s_max + _DEADLINE_SLACK_S:
                world.fail(
                    "deadline-late",
                    f"{call_id}: its host was given {late_s:.3f} s more than the caller",
                )
