"""
Which host a call goes to: at once, later, again, or none. Pure: no I/O, no clock, no tasks.

A call is two legs: the one it came on (opened by the caller's link) and the one it went out on
(opened by the hub towards the host). `Call.app` of each is the other.
Owns: joining and parting the two, when a waiting call is tried again, refusals. Does not own: what
passes between the legs and how they end (forward.py, which builds on this), the choice of host
(routing.py), the order of those that wait (queue.py), what requests are checked for (checks.py).
Source: LINK.md "Credit, budget, fairness", "What a call's end may claim"; DESIGN.md "What a caller
is told".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayrpc.contract.rules import Refusal
from relayrpc.hub.credit import CreditDesk
from relayrpc.hub.observer import Observers
from relayrpc.hub.one_way import HeldCalls, is_held, was_taken_over
from relayrpc.hub.queue import CallQueue, QueuedCall
from relayrpc.hub.routing import Lack, Registration, Router, RoutingRefusal
from relayrpc.link.call import (
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
    Call,
    make_end,
)
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayrpc.hub.checks import RequestChecks
    from relayrpc.hub.routing import Place
    from relayrpc.limits import Limits
    from relayrpc.link.calls import LinkCalls
    from relayrpc.link.events import CallOpened
    from relayrpc.link.link import Link


__all__ = ["CallPlacer"]

_DRAINING: Final = "the hub stops, and no host had the call"
_ANCHOR_OVER: Final = "the call that this one belongs to is over"
_ANCHOR_ONE_WAY: Final = "the caller of a one-way call does not wait, and is not called back"
_ANCHOR_LEAVING: Final = "the peer of the call that this one belongs to goes away"
_ANCHOR_FULL: Final = "the peer of the call that this one belongs to has too many calls open"
# Where calls wait in the queue whose requests are being checked. No host stands there: those
# announce services with names.
_AT_CHECKS: Final = ("", "")


class CallPlacer:
    """
    Finds a host for each call of one hub. Not used by itself: Forwarder adds what comes by links.

    Attributes:
        router: The table of hosts.
        observers: Who is told of what happens.
        queue: The calls that wait.
        checks: Which requests are checked, and in what order; None: none are.
        credit: What was granted and could not be passed on.
        held: One-way calls that the hub has taken over.
        reroutes_count: How often a call came back from a host that was never handed it.
        now_s: Monotonic seconds, of the turn that is being handled.
    """

    def __init__(self, router: Router, *, limits: Limits) -> None:
        self.router = router
        self.observers = Observers()
        self.queue = CallQueue(limits)
        self.checks: RequestChecks | None = None
        self.credit = CreditDesk()
        self.held = HeldCalls(limits)
        self.reroutes_count = 0
        self.now_s = 0.0
        self._limits = limits
        # No call reaches a host any more.
        self._is_draining = False

    # --- handing a call to its host ---

    def _route(self, came: Call, event: CallOpened) -> None:
        """Hand a call to its host, or have it wait for one, or refuse it."""
        frame = event.frame
        credit_bytes = frame.open.credit_bytes
        if came.anchor is not None:
            self._hand_anchored(came, frame, event.data, credit_bytes)
            return
        self._choose(came, frame, event.data, credit_bytes, self.now_s)

    def _choose(
        self, came: Call, frame: pb.Frame, data: bytes, credit_bytes: int, since_s: float
    ) -> None:
        """
        Choose the host of a call, and hand the call to it, once it is checked; or have it wait.

        Args:
            came: The leg it came on.
            frame: Its OPEN.
            data: What the OPEN holds.
            credit_bytes: All that the caller takes of the responses now.
            since_s: When it began to wait, if it has to.
        """
        choice = self._pick(came, frame.open)
        if type(choice) is Registration:
            if self.checks is None or not self._stops(came, frame, choice, credit_bytes):
                self._hand(came, frame, choice, data, credit_bytes)
        else:
            assert isinstance(choice, RoutingRefusal)
            self._wait(QueuedCall(came, frame, credit_bytes, since_s), choice)

    def _pick(self, came: Call, opening: pb.Open) -> Registration | RoutingRefusal:
        # What has the same dedupe key is for the host that may remember it.
        key = opening.sticky_key or opening.dedupe_key
        if not key and opening.order_key:
            # Of this caller's link only; the order holds at one host.
            key = f"{came.link.link_id.hex()} {opening.order_key}"  # type: ignore[attr-defined]  # a Link
        return self.router.pick(
            came.address, came.method, instance=opening.instance, sticky_key=key
        )

    def _hand(
        self, came: Call, frame: pb.Frame, choice: Registration, data: bytes, credit_bytes: int
    ) -> None:
        """
        Open a call towards the host that was chosen.

        Args:
            came: The leg it came on.
            frame: Its OPEN.
            choice: Its host, whose link takes new calls.
            data: What the OPEN holds.
            credit_bytes: All that the caller takes of the responses now.
        """
        if choice.timeouts_max_s:
            self._bound(came, frame, choice)
        if is_held(came) and not frame.open.order_key:
            self.held.keep(came, frame)
        went = self._open(came, frame, choice.link, data, credit_bytes, None)
        if went is not None:
            choice.calls_open_count += 1
            went.served_by = choice

    def _hand_anchored(
        self, came: Call, frame: pb.Frame, data: bytes, credit_bytes: int
    ) -> None:
        """
        Open a call where the other end of the one is that it belongs to, or refuse it.

        Args:
            came: The leg it came on.
            frame: Its OPEN.
            data: What the OPEN holds.
            credit_bytes: All that the opener takes of the responses now.
        """
        anchor = came.anchor
        assert anchor is not None
        other: Call | None = anchor.app
        if other is None:
            # It waits for a host itself, or its other end has just gone.
            self._refuse(came, STATUS_UNAVAILABLE, _ANCHOR_OVER)
            return
        if is_held(other):
            self._refuse(came, STATUS_UNAVAILABLE, _ANCHOR_ONE_WAY)
            return
        registration: Registration | None = None
        if not anchor.is_opener and other.served_by is not None:
            # Towards a host, which is called only for what it serves.
            registration = self.router.registration_at(other.served_by, came.address, came.method)
            if registration is None:
                self._refuse(
                    came,
                    STATUS_UNIMPLEMENTED,
                    f"the host of the call that this one belongs to does not serve "
                    f"{came.method.partition('/')[0]!r} at {came.address!r}",
                )
                return
            self._bound(came, frame, registration)
            if self.checks is not None and self._stops(
                came, frame, registration, credit_bytes
            ):
                return
        link = other.link
        if link.is_draining or link.is_closed:
            self._refuse(came, STATUS_UNAVAILABLE, _ANCHOR_LEAVING)
        elif not link.has_room_for_call:
            self._refuse(came, STATUS_RESOURCE_EXHAUSTED, _ANCHOR_FULL)
        else:
            went = self._open(came, frame, link, data, credit_bytes, other)
            if went is not None:
                went.served_by = registration

    def _bound(self, came: Call, frame: pb.Frame, choice: Registration) -> None:
        """Have a call end when its contract says so, where that is before its deadline."""
        timeout_s = choice.timeouts_max_s.get(came.method)
        if timeout_s is None:
            return
        if is_held(came):
            # Nobody waits here: its host ends it, from when it has it.
            frame.open.time_left_us = int(timeout_s * 1e6)
        else:
            came.link.bound_deadline(came, came.opened_s + timeout_s, now_s=self.now_s)

    def _open(
        self,
        came: Call,
        frame: pb.Frame,
        host: LinkCalls,
        data: bytes,
        credit_bytes: int,
        anchor: Call | None,
    ) -> Call | None:
        """Open the leg that goes out, charge it, and join the two; None: there is no room."""
        size = len(data)
        assert host.budget is not None
        assert came.link.budget is not None
        # Charged before the host's link is asked: a peer may call itself, on one budget then.
        credit = came.link.budget.charge_credit(
            came, min(credit_bytes, frame.open.credit_bytes)
        )
        if not host.budget.has_room(size):
            if anchor is not None or not self._pause(came, frame):
                self._refuse(
                    came,
                    STATUS_RESOURCE_EXHAUSTED,
                    f"the host at {came.address!r} has too much queued",
                )
            return None
        went = host.forward_open(
            frame, came, data=data, credit_bytes=credit, anchor=anchor
        )
        if size:
            host.budget.charge(went, size)
        came.app = went
        if credit < credit_bytes:
            came.withheld_bytes = credit_bytes - credit
            self.credit.starve(came)
        host.flush_soon()
        return went

    # --- requests that are checked first ---

    def _stops(
        self, came: Call, frame: pb.Frame, choice: Registration, credit_bytes: int
    ) -> bool:
        """
        Have a call checked that is about to be handed to a host, unless it was.

        Args:
            came: The leg it came on.
            frame: Its OPEN.
            choice: Its host.
            credit_bytes: All that the caller takes of the responses now.

        Returns:
            Whether it is not to be handed now: it waits for that, or was refused.
        """
        assert self.checks is not None
        opening = frame.open
        verdict = self.checks.opened(
            came,
            choice,
            opening.data,
            has_order=bool(opening.order_key) or came.anchor is not None,
        )
        if isinstance(verdict, Refusal):
            self._refuse(came, verdict.status, verdict.text, is_passing=verdict.is_passing)
            return True
        if verdict:
            fault = self.queue.add(
                QueuedCall(came, frame, credit_bytes, self.now_s, _AT_CHECKS)
            )
            if fault:
                text = f"the hub is to check the request, and {fault}"
                self._refuse(came, STATUS_RESOURCE_EXHAUSTED, text)
        return verdict

    def _go_on(self, came: Call) -> None:
        """Hand a call to a host that was checked."""
        entry = self.queue.take(came)
        assert entry is not None
        frame, credit_bytes = entry.frame, entry.credit_bytes
        if came.anchor is not None:
            self._hand_anchored(came, frame, frame.open.data, credit_bytes)
        else:
            self._choose(came, frame, frame.open.data, credit_bytes, entry.since_s)
        came.link.flush_soon()

    # --- calls that wait ---

    def _wait(self, entry: QueuedCall, refusal: RoutingRefusal) -> None:
        """Have a call wait for what it lacks, or refuse it where waiting is not asked for."""
        if self._is_draining:
            # Whoever would have to come goes to another hub.
            self._refuse(entry.call, STATUS_UNAVAILABLE, _DRAINING)
            return
        lack = refusal.lack
        may_wait = entry.frame.open.wait_for_ready
        is_one_way = is_held(entry.call)
        if (
            (lack is Lack.FULL and not is_one_way)
            or (lack in (Lack.ABSENT, Lack.LEAVING) and not may_wait)
            or lack is Lack.UNSERVED
        ) and not was_taken_over(entry.call):
            self._refuse(entry.call, refusal.status, refusal.details)
            return
        entry.place = refusal.place
        entry.details = refusal.details
        if is_one_way:
            # Nobody's deadline ends it.
            entry.until_s = entry.since_s + self._limits.one_way_wait_s
        elif lack is not Lack.PARKED or may_wait:
            entry.until_s = None
        else:
            entry.until_s = self.now_s + self._limits.parked_wait_s
        fault = self.queue.add(entry)
        if fault:
            self._refuse(entry.call, STATUS_RESOURCE_EXHAUSTED, f"{refusal.details}, and {fault}")

    def serve(self, places: Iterable[Place]) -> None:
        """Look again at the calls that wait where hosts came, went, or have a slot free."""
        if not len(self.queue):
            return
        for place in self.queue.at_or_below(places):
            blocked = False
            for entry in self.queue.at(place):
                if blocked and not self.queue.has_choosy(place):
                    break
                if entry.call.is_ended or (blocked and not entry.is_choosy):
                    continue
                choice = self._pick(entry.call, entry.frame.open)
                if isinstance(choice, RoutingRefusal):
                    if choice.place == place and choice.details == entry.details:
                        blocked = blocked or not entry.is_choosy
                        continue
                    self.queue.take(entry.call)
                    self._wait(entry, choice)
                else:
                    self.queue.take(entry.call)
                    for observe in self.observers.call_dequeued:
                        observe(entry.call, self.now_s - entry.since_s)
                    frame, credit_bytes = entry.frame, entry.credit_bytes
                    if self.checks is None or not self._stops(
                        entry.call, frame, choice, credit_bytes
                    ):
                        self._hand(entry.call, frame, choice, frame.open.data, credit_bytes)

    def expire_queued(self, *, now_s: float) -> None:
        """
        Refuse the calls that have waited enough, and try those again that paused; due at
        `queue.next_end_s()`.
        """
        self.now_s = now_s
        for entry in self.queue.expired(now_s=now_s):
            came, frame = entry.call, entry.frame
            if entry.is_paused:
                self._choose(came, frame, frame.open.data, entry.credit_bytes, entry.since_s)
            else:
                self._refuse(came, STATUS_UNAVAILABLE, entry.details)
            came.link.flush_soon()

    def _pause(self, came: Call, frame: pb.Frame) -> bool:
        """
        Have a one-way call that a host has not taken tried again a little later.

        Args:
            came: The leg it came on.
            frame: Its OPEN, whole.

        Returns:
            False: it is not the hub's own, or has waited enough, or the hub stops: end it.
        """
        self.held.let_go(came)
        if self._is_draining or not was_taken_over(came):
            return False
        place = self.router.place_of(came.address, came.method)
        # No host stands there: what comes or goes does not end the pause.
        at = (came.address if place is None else place[0], "")
        when = self.held.refused(came, paused_count=self.queue.count(at), now_s=self.now_s)
        if when is None:
            return False
        since_s, until_s = when
        frame.open.time_left_us = 0
        entry = QueuedCall(
            came, frame, frame.open.credit_bytes, since_s, at, until_s=until_s, is_paused=True
        )
        fault = self.queue.add(entry)
        if fault:
            text = f"the host at {came.address!r} did not take the call, and {fault}"
            self._refuse(came, STATUS_RESOURCE_EXHAUSTED, text)
        return True

    # --- calls that come back ---

    def _route_again(self, went: Call, frame: pb.Frame) -> None:
        """A call came back from a host that was never handed it: choose again."""
        came: Call | None = went.app
        if came is None:
            return
        self.reroutes_count += 1
        credit = went.receive_credit_bytes + came.withheld_bytes
        self.credit.take_back(came, went)
        self._part(went, came)
        if came.is_ended:
            return
        if went.anchor is not None:
            # What it belongs to was there, and nowhere else.
            self._refuse(came, STATUS_UNAVAILABLE, _ANCHOR_OVER)
            came.link.flush_soon()
            return
        if is_held(came):
            frame.open.time_left_us = 0
        self._choose(came, frame, frame.open.data, credit, self.now_s)
        came.link.flush_soon()

    def take_back_waiting(self, link: Link, registration: Registration | None) -> None:
        """Choose again for the calls that wait to leave by a link; None: for all of them."""
        for went in link.calls_waiting:
            if (
                went.served_by is not None
                and went.anchor is None
                and registration in (None, went.served_by)
            ):
                self._route_again(went, link.take_back(went))

    # --- calls that get no host, or have none any more ---

    def _refuse(
        self, came: Call, status: int, details: str, *, is_passing: bool = True
    ) -> None:
        """
        End a call that no host has seen.

        Args:
            came: The leg it came on.
            status: gRPC's number.
            details: Why.
            is_passing: Where a bound was met: to try again later may help.
        """
        retries = is_passing and status == STATUS_RESOURCE_EXHAUSTED
        frame = make_end(
            status,
            details,
            origin=pb.End.ORIGIN_HUB,
            not_executed=True,
            retry_after_s=self._limits.retry_after_s if retries else None,
        )
        self._observe_end(came, frame.end, None)
        came.link.forward_end(came, frame, discard=True)

    def drain(self, *, now_s: float) -> None:
        """
        Refuse the calls that wait for a host, and from now on those that would have to; running
        ones go on. Call once every link has been told that the hub goes away.
        """
        self.now_s = now_s
        self._is_draining = True
        for place in self.queue.places:
            for entry in self.queue.at(place):
                self.queue.take(entry.call)
                self._refuse(entry.call, STATUS_UNAVAILABLE, _DRAINING)
                entry.call.link.flush_soon()

    def _observe_end(self, came: Call, end: pb.End, registration: Registration | None) -> None:
        if self.checks is not None:
            self.checks.forget(came)
        duration_s = self.now_s - came.opened_s
        for observe in self.observers.call_ended:
            observe(came, end, registration, duration_s)

    def _part(self, call: Call, other: Call) -> None:
        """Let the two legs of a call forget each other."""
        call.app = other.app = None
        if self.credit.starved:
            self.credit.forget(call)
            self.credit.forget(other)
        went, came = (call, other) if call.is_opener else (other, call)
        if self.held.kept_bytes:
            self.held.let_go(came)
        if went.anchor is not None:
            # It took no slot.
            return
        registration = went.served_by
        registration.calls_open_count -= 1
        if len(self.queue):
            self.serve(registration.places)
