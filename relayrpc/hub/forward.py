"""
The hub's core: from the events of one link to what happens on the others. Pure: no I/O, no clock,
no tasks.

A call is two legs, as placing.py has it, on which this builds; `Call.app` of each is the other.
Payloads are not decoded here; requests that are to be checked stop on their way (checks.py).
Owns: what passes between the two legs of a call, and how they end. Does not own: which link a
carrier belongs to (links.py), the host that a call goes to (placing.py), announcements (hosts.py),
the passing on of credit (credit.py).
Source: LINK.md "Credit, budget, fairness", "What a call's end may claim"; docs/adr/0003-credit.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from relayrpc.contract.rules import Refusal
from relayrpc.hub.checks import Part
from relayrpc.hub.hosts import HostDesk
from relayrpc.hub.one_way import hold, take_over
from relayrpc.hub.placing import CallPlacer
from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    STATUS_UNAVAILABLE,
    Call,
    CallState,
    make_end,
)
from relayrpc.link.events import (
    AnnounceReceived,
    BeginReceived,
    CallEnded,
    CallOpened,
    CallReturned,
    DataReceived,
    DeadlinePassed,
    Event,
    GoingAwayReceived,
    GrantReceived,
    HalfCloseReceived,
    LinkEnded,
    WithdrawReceived,
)
from relayrpc.link.link import LinkState
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.routing import Router
    from relayrpc.limits import Limits
    from relayrpc.link.link import Link


__all__ = ["Forwarder"]

_RELAY_KEYS: Final = "relay-"
# Legs towards a host whose opener has half closed.
_HALF_CLOSED: Final = (int(CallState.AWAITING), int(CallState.AWAITING_BEGUN))


class Forwarder(CallPlacer):
    """
    Everything one hub decides about calls.

    Attributes, beside those of CallPlacer:
        hosts: What it decides about hosts.
    """

    def __init__(self, router: Router, *, limits: Limits) -> None:
        super().__init__(router, limits=limits)
        self.hosts = HostDesk(self)

    @property
    def starved_count(self) -> int:
        """Legs that credit is withheld for."""
        return len(self.credit.starved)

    def handle(self, link: Link, events: list[Event], *, now_s: float) -> bool:
        """
        Act on the events of one link, in order; other links are told to flush.

        Returns:
            False when the link has ended: it is to be forgotten.
        """
        self.now_s = now_s
        for event in events:
            kind = type(event)
            if kind is CallEnded:
                self._call_ended(event.call, event.frame, event.has_metadata)  # type: ignore[attr-defined]  # the kind is tested
            elif kind is CallOpened:
                self._call_opened(event)  # type: ignore[arg-type]
            elif kind is DataReceived:
                other = event.call.app  # type: ignore[attr-defined]
                if other is not None:
                    if self.checks is None or not self._waits(event.call, event.data):  # type: ignore[attr-defined]
                        other.link.send_data(other, event.data)  # type: ignore[attr-defined]
                        other.link.flush_soon()
                    # Also for data that is to be checked: the sender has used the credit.
                    if self.credit.starved and other in self.credit.starved:
                        self.credit.look(other)
            else:
                self._handle_rare(link, event)
        if self.credit.starved:
            self.serve_starved()
        return link.state is not LinkState.CLOSED

    def _handle_rare(self, link: Link, event: Event) -> None:
        match event:
            case GrantReceived(call=call, credit_bytes=credit_bytes):
                self._pass_credit(call, credit_bytes)
            case HalfCloseReceived(call=call):
                if call.app is not None:
                    if self.checks is None or not self.checks.half_closed(call):
                        self._half_close(call)
                elif (waiting := self.queue.get(call)) is not None:
                    waiting.frame.open.half_close = True
            case BeginReceived(call=call, frame=frame):
                if call.app is not None:
                    _strip(frame.begin.metadata)
                    frame.begin.instance = link.instance
                    call.app.link.forward_begin(call.app, frame)
                    call.app.link.flush_soon()
            case DeadlinePassed(call=call):
                self._end_here(call, STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded")
            case CallReturned(call=call, frame=frame):
                self._route_again(call, frame)
            case AnnounceReceived(announce=announce):
                self.hosts.announced(link, announce)
            case WithdrawReceived(announcement_id=announcement_id):
                self.hosts.withdrawn(link, announcement_id)
            case GoingAwayReceived():
                self.hosts.link_leaving(link)
            case LinkEnded():
                self.hosts.link_over(link)
            case _:
                # SendReady: nobody here waits to write. Announced: a hub announces nothing.
                pass

    # --- a call comes ---

    def _call_opened(self, event: CallOpened) -> None:
        came = event.call
        opening = event.frame.open
        came.opened_s = self.now_s
        if event.has_metadata:
            _strip(opening.metadata)
        opening.caller_identity = came.link.peer_identity
        opening.caller_peer = came.link.peer_address
        if opening.one_way and opening.half_close and not came.is_ended:
            self._take_over(came, event)
            return
        for observe in self.observers.call_opened:
            observe(came, opening)
        if came.is_ended:
            # Its CANCEL came in the same batch: nothing is to be charged to it any more.
            return
        self._route(came, event)

    def _take_over(self, came: Call, event: CallOpened) -> None:
        """Have a one-way call held by the hub in its caller's place, or refuse it."""
        if came.deadline_s is not None and came.deadline_s <= self.now_s:
            # Its caller has been told already, perhaps that it does not run.
            for observe in self.observers.call_opened:
                observe(came, event.frame.open)
            self._refuse(came, STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded")
            return
        held = hold(came)
        event.frame.open.time_left_us = 0
        for observe in self.observers.call_opened:
            observe(held, event.frame.open)
        self._route(held, event)
        if not held.is_ended:
            take_over(held)

    # --- what passes between its legs ---

    def _half_close(self, came: Call) -> None:
        """Tell a host that no more requests come."""
        went = came.app
        self.credit.take_back(went, came)
        went.link.half_close(went)
        went.link.flush_soon()

    def _pass_credit(self, leg: Call, credit_bytes: int) -> None:
        """
        The peer of this leg takes more: let the other end send it, as far as the leg's link has
        budget.
        """
        if leg.state in _HALF_CLOSED:
            # The opener sends no more: credit would lie in the budget unused until the call ends.
            return
        if leg.app is None:
            if (waiting := self.queue.get(leg)) is not None:
                waiting.credit_bytes += credit_bytes
            return
        self.credit.granted(leg, credit_bytes)

    def serve_starved(self) -> None:
        """Pass on withheld credit where budgets have room again. Called after every flush."""
        self.credit.serve()

    def _waits(self, came: Call, data: bytes) -> bool:
        """Say whether requests of a call are not to be passed on now."""
        assert self.checks is not None
        verdict = self.checks.data_received(came, data)
        if isinstance(verdict, Refusal):
            self._end_here(came, verdict.status, verdict.text)
            return True
        return verdict

    def check_some(self, *, now_s: float) -> bool:
        """
        Check as many requests as one turn has time for, and act on it.

        Returns:
            True when more wait: call it again, in another turn.
        """
        assert self.checks is not None
        self.now_s = now_s
        for outcome in self.checks.check_some():
            came, refusal = outcome.call, outcome.refusal
            if came.is_ended:
                continue
            if refusal is not None:
                self._end_here(came, refusal.status, refusal.text, refusal.details)
            elif outcome.part is Part.OPEN:
                self._go_on(came)
            elif outcome.part is Part.DATA:
                came.app.link.send_data(came.app, outcome.data)
                came.app.link.flush_soon()
            else:
                self._half_close(came)
        return self.checks.has_waiting

    # --- how it ends ---

    def _call_ended(self, call: Call, frame: pb.Frame, has_metadata: bool) -> None:
        other: Call | None = call.app
        if other is None:
            if not call.is_opener:
                self.queue.take(call)
                self._observe_end(call, frame.end, None)
            return
        end = frame.end
        if call.is_opener:
            if end.not_executed and self._comes_back(call, other, frame):
                return
            self._observe_end(other, end, call.served_by)
        else:
            self._observe_end(call, end, other.served_by)
        self._part(call, other)
        if call.is_opener:
            if has_metadata:
                _strip(end.trailing_metadata)
                _strip(end.initial_metadata)
            self.credit.take_back(other, call)
            other.link.forward_end(other, frame, discard=end.origin == pb.End.ORIGIN_HUB)
        else:
            other.link.cancel_call(other, reason=_cancel_reason(end))
        other.link.flush_soon()

    def _comes_back(self, went: Call, came: Call, frame: pb.Frame) -> bool:
        """Try a one-way call again that its host has not executed; False: it is over."""
        opening = self.held.take_back(came, frame.end)
        if opening is None:
            return False
        self.credit.take_back(came, went)
        self._part(went, came)
        if not self._pause(came, opening):
            self._observe_end(came, frame.end, went.served_by)
            came.link.forward_end(came, frame)
        return True

    def _end_here(
        self, came: Call, status: int, details: str, rich_details: bytes = b""
    ) -> None:
        """End a call that neither its caller nor its host has ended, at both."""
        went: Call | None = came.app
        frame = make_end(
            status,
            details,
            origin=pb.End.ORIGIN_HUB,
            not_executed=went is None or not went.link.may_be_given(went),
            rich_details=rich_details,
        )
        self._observe_end(came, frame.end, None if went is None else went.served_by)
        if went is None:
            self.queue.take(came)
        else:
            self._part(came, went)
            went.link.cancel_call(went, reason=_cancel_reason(frame.end))
            went.link.flush_soon()
        came.link.forward_end(came, frame, discard=True)
        came.link.flush_soon()

    def end_calls(self, link: Link, details: str, *, now_s: float) -> None:
        """End every call that came on a link, truthfully; its callers and hosts are told."""
        self.now_s = now_s
        for came in link.calls_received:
            self._end_here(came, STATUS_UNAVAILABLE, details)


def _cancel_reason(end: pb.End) -> pb.Cancel.Reason:
    """Tell a host why a call is over that it has not ended."""
    if end.status == STATUS_DEADLINE_EXCEEDED:
        return pb.Cancel.REASON_DEADLINE
    if end.origin == pb.End.ORIGIN_HUB:
        return pb.Cancel.REASON_CALLER_LOST
    return pb.Cancel.REASON_CANCELLED


def _strip(metadata: Iterable[pb.Metadatum]) -> None:
    """Take the relay's own keys out: a hub forwards none."""
    if any(entry.key.startswith(_RELAY_KEYS) for entry in metadata):
        kept = [entry for entry in metadata if not entry.key.startswith(_RELAY_KEYS)]
        del metadata[:]  # type: ignore[attr-defined]  # a repeated field
        metadata.extend(kept)  # type: ignore[attr-defined]
