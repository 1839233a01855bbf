"""
Goal: the second ring notices what is wrong; each bug here is planted alone, and named by the check
that must find it.

Method: replace one method of a real class, then run seeds until one fails.
"""

from __future__ import annotations

import gc
import random
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from relayrpc.carrier.driver import LinkDriver, _Ride
from relayrpc.endpoint.call_core import CallCore
from relayrpc.endpoint.callback_set import _Member
from relayrpc.endpoint.caller import Reach
from relayrpc.endpoint.context import Context
from relayrpc.endpoint.host_session import HostSession
from relayrpc.endpoint.inbox import Inbox
from relayrpc.endpoint.instances import Instances
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.order import Place
from relayrpc.endpoint.reply import ReplyCore
from relayrpc.endpoint.request_writer import RequestWriter
from relayrpc.endpoint.session import SessionState
from relayrpc.endpoint.throttle import Throttle
from relayrpc.endpoint.turns import Turn
from relayrpc.hub.forward import Forwarder
from relayrpc.hub.links import LinkTable
from relayrpc.hub.log import HubLog
from relayrpc.hub.one_way import is_held, was_taken_over
from relayrpc.hub.routing import Router
from relayrpc.hub.session import _Handshake
from relayrpc.link.batch_log import BatchLog
from relayrpc.link.call_table import CallTable
from relayrpc.link.deadlines import DeadlineBuckets
from relayrpc.link.link import Link
from relayrpc.link.messages import MessageReader
from relayrpc.v1 import link_pb2 as pb
from tests.simulation import ring2


_DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "explanation" / "simulation.md"
_SEEDS_MAX: Final = 40
Plant = Callable[[pytest.MonkeyPatch], None]
_PLANTS: Final[dict[str, tuple[str, Plant]]] = {}
"""Name of the bug -> what the failure says (a pattern), and how to plant it."""


def _finds(check: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        _PLANTS[plant.__name__] = (check, plant)
        return plant

    return register


@_finds("response")
def reader_takes_the_newest_message_first(patch: pytest.MonkeyPatch) -> None:
    take = Inbox.take

    def reversed_take(self: Inbox) -> bytes:
        self.messages.rotate(1)
        return take(self)

    patch.setattr(Inbox, "take", reversed_take)


@_finds("requests lost|handler broke")
def writer_half_closes_before_its_last_request(patch: pytest.MonkeyPatch) -> None:
    async def write(self: RequestWriter, request: Any) -> None:
        core = self._core
        if core.call is not None and random.Random(core.call.unsent_bytes).random() < 0.9:
            await original(self, request)

    original = RequestWriter.write
    patch.setattr(RequestWriter, "write", write)


@_finds("another origin|nobody can have said this")
def reader_loses_a_byte_of_a_message_in_pieces(patch: pytest.MonkeyPatch) -> None:
    keep = MessageReader._keep
    patch.setattr(MessageReader, "_keep", lambda self, piece: keep(self, piece[:-1]))


@_finds("no progress|in a healed world|nothing was lost for good")
def driver_does_not_answer_at_once(patch: pytest.MonkeyPatch) -> None:
    def batch_received(self: _Ride, batch: bytes) -> None:
        driver = self._driver
        driver.link.receive_batch(batch, attempt=self.attempt, now_s=driver._clock())
        driver._deliver()

    patch.setattr(_Ride, "batch_received", batch_received)


@_finds("no progress|nothing was lost for good")
def resume_forgets_what_was_not_acknowledged(patch: pytest.MonkeyPatch) -> None:
    resume = BatchLog.resume

    def forgetful(self: BatchLog, received_number: int, **options: Any) -> bool:
        is_taken = resume(self, received_number, **options)
        self._again.clear()
        return is_taken

    patch.setattr(BatchLog, "resume", forgetful)


@_finds("response|another origin|nothing was lost for good|list index out of range")
def acceptor_takes_batches_twice(patch: pytest.MonkeyPatch) -> None:
    receive = BatchLog.receive

    def careless(self: BatchLog, number: int, size_bytes: int, *, now_s: float) -> bool:
        receive(self, number, size_bytes, now_s=now_s)
        return True

    patch.setattr(BatchLog, "receive", careless)


@_finds("executed after all|the handler did not raise")
def every_lost_call_claims_not_to_have_been_executed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CallTable, "was_given", lambda self, call: False)


@_finds("no progress|over its deadline")
def deadlines_never_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeadlineBuckets, "next_s", lambda self: None)
    patch.setattr(DeadlineBuckets, "expired", lambda self, *, now_s: [])


@_finds("before its deadline")
def deadlines_pass_early(patch: pytest.MonkeyPatch) -> None:
    add = DeadlineBuckets.add

    def hasty(self: DeadlineBuckets, call: Any, *, now_s: float) -> None:
        call.deadline_s -= 0.005
        add(self, call, now_s=now_s)

    patch.setattr(DeadlineBuckets, "add", hasty)


@_finds("ended 2 times")
def call_tells_its_end_twice(patch: pytest.MonkeyPatch) -> None:
    finish = CallCore.finish

    def twice(self: CallCore, end: Any) -> None:
        for callback, argument in self._callbacks or ():
            self.channel.loop.call_soon(callback, argument)
        finish(self, end)

    patch.setattr(CallCore, "finish", twice)


@_finds("its handler still runs|is pending")
def handler_is_not_cancelled_with_its_call(patch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Context) -> None:
        self._is_cancelled = True
        self.leave()

    patch.setattr(Context, "cancel_handler", forgetful)


@_finds(r"its handler still runs|\d+ of \d+ ended")
def hub_does_not_pass_a_cancellation_on(patch: pytest.MonkeyPatch) -> None:
    ended = Forwarder._call_ended

    def forgetful(self: Forwarder, call: Any, frame: Any, has_metadata: bool) -> None:
        if call.is_opener:
            ended(self, call, frame, has_metadata)

    patch.setattr(Forwarder, "_call_ended", forgetful)


@_finds(r"Concurrent RPC limit exceeded|LivelockError|\d+ lines to \d+ watchers")
def server_counts_calls_that_are_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Context, "leave", lambda self: None)


@_finds("messages are left half put together")
def inbox_keeps_its_share_of_the_assembly(patch: pytest.MonkeyPatch) -> None:
    def close(self: Inbox) -> None:
        self._call = None
        self.end()

    patch.setattr(Inbox, "close", close)


@_finds("timers are left")
def handshake_leaves_its_timer(patch: pytest.MonkeyPatch) -> None:
    def over(self: _Handshake) -> None:
        self._is_over = True
        self._sessions.handshake_over(self)

    patch.setattr(_Handshake, "_over", over)


@_finds("links are left")
def hub_forgets_no_link(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LinkTable, "remove", lambda self, link: None)


@_finds("registrations are left")
def hub_forgets_no_registration(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "remove_link", lambda self, link: [])


@_finds("nothing was broken|no progress of what was stopped and started")
def live_link_does_not_announce_again(patch: pytest.MonkeyPatch) -> None:
    welcomed = LiveLink._welcomed

    def silent(self: LiveLink, link: Link, welcome: Any, *, is_resumed: bool) -> None:
        is_first = self.__dict__.setdefault("_is_first", True)
        self.__dict__["_is_first"] = False
        welcomed(self, link, welcome, is_resumed=is_resumed or not is_first)

    patch.setattr(LiveLink, "_welcomed", silent)


@_finds("objects are left")
def hub_keeps_drivers_of_links_that_are_over(patch: pytest.MonkeyPatch) -> None:
    kept: list[LinkDriver] = []
    init = LinkDriver.__init__

    def remembered(self: LinkDriver, *arguments: Any, **options: Any) -> None:
        kept.append(self)
        init(self, *arguments, **options)

    patch.setattr(LinkDriver, "__init__", remembered)


@_finds("details changed")
def hub_writes_into_a_host_s_end(patch: pytest.MonkeyPatch) -> None:
    ended = Forwarder._call_ended

    def meddling(self: Forwarder, call: Any, frame: Any, has_metadata: bool) -> None:
        if call.is_opener and frame.end.details:
            frame.end.details += " (relayed)"
        ended(self, call, frame, has_metadata)

    patch.setattr(Forwarder, "_call_ended", meddling)


@_finds("no progress")
def call_that_ends_in_an_error_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    finish = ReplyCore.finish

    def silent(self: ReplyCore, end: Any) -> None:
        if end.status:
            self._waiter = None
        finish(self, end)

    patch.setattr(ReplyCore, "finish", silent)


@_finds("no progress|LivelockError")
def hub_does_not_serve_the_starved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Forwarder, "serve_starved", lambda self: None)


@_finds("published in another order")
def set_of_callers_is_told_the_newest_first(patch: pytest.MonkeyPatch) -> None:
    put = _Member.put

    def hasty(self: _Member[Any], method: str, request: Any) -> None:
        put(self, method, request)
        self.waiting.rotate(1)

    patch.setattr(_Member, "put", hasty)


@_finds("out of order")
def calls_of_a_session_begin_when_they_are_ready(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Place, "comes_first", lambda self: True)


@_finds(r"\d+ lines to \d+ watchers")
def line_to_a_caller_is_never_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reach, "close_line", lambda self: None)


@_finds("host came: .*, then ")
def log_leaves_out_who_went_with_a_link(patch: pytest.MonkeyPatch) -> None:
    went = HubLog.host_went

    def forgetful(self: HubLog, registration: Any) -> None:
        if not registration.link.is_closed:
            went(self, registration)

    patch.setattr(HubLog, "host_went", forgetful)


@_finds("more than one object")
def session_has_a_new_object_for_each_call(patch: pytest.MonkeyPatch) -> None:
    find = Instances._find_shared

    async def forgetful(self: Instances, context: Any) -> Any:
        made = self._of_session.pop(context.session, None)
        if made is not None:
            self.keep(self._close_made(made.task, context.server))
        return await find(self, context)

    patch.setattr(Instances, "_find_shared", forgetful)


@_finds("ran more than once|executed after all")
def one_way_call_that_was_handed_over_goes_to_another_host(patch: pytest.MonkeyPatch) -> None:
    route, ended = Forwarder._route, Forwarder._call_ended

    def remembering(self: Forwarder, came: Any, event: Any) -> None:
        if is_held(came):
            came.link.opening = event.frame
        route(self, came, event)

    def forgetful(self: Forwarder, call: Any, frame: Any, has_metadata: bool) -> None:
        came = call.app
        is_lost = call.is_opener and frame.end.status and frame.end.origin == pb.End.ORIGIN_HUB
        has_others = came is not None and came.anchor is None and was_taken_over(came)
        if is_lost and has_others:
            self._route_again(call, came.link.opening)
        else:
            ended(self, call, frame, has_metadata)

    patch.setattr(Forwarder, "_route", remembering)
    patch.setattr(Forwarder, "_call_ended", forgetful)


@_finds("no progress|nothing was lost")
def reentrant_object_does_not_give_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Turn, "gives_way", property(lambda self: False))


@_finds("places are taken still|no progress")
def throttle_place_is_not_given_back(patch: pytest.MonkeyPatch) -> None:
    give = Throttle.give

    def forgetful(self: Throttle, kind: Any) -> None:
        if kind != "sessions":
            give(self, kind)

    patch.setattr(Throttle, "give", forgetful)


@_finds("its end was not told")
def host_s_session_does_not_tell_its_end(patch: pytest.MonkeyPatch) -> None:
    def forgetful(self: HostSession, status: int, details: str) -> None:
        if self.call is not None:
            self._over(SessionState.CLOSED)

    patch.setattr(HostSession, "end", forgetful)


@pytest.mark.parametrize("name", _PLANTS)
def test_ring_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, plant = _PLANTS[name]
    # A world that fails half way leaves coroutines that nobody will run again.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plant(monkeypatch)
        said = _first_failure()
        gc.collect()
    assert said, f"{_SEEDS_MAX} seeds are clean although {name.replace('_', ' ')}"
    assert re.search(check, said), said


def test_document_names_every_bug() -> None:
    text = _DOCUMENT.read_text()
    missing = [name for name in _PLANTS if f"| {name.replace('_', ' ')} |" not in text]
    assert not missing, f"{_DOCUMENT.name} does not name {missing}"


def _first_failure() -> str:
    """Run seeds until one fails; what it says, empty when none does."""
    for seed in range(_SEEDS_MAX):
        try:
            ring2.run_seed(seed)
        except AssertionError as exc:
            return str(exc).partition("\n")[0]
    return ""
