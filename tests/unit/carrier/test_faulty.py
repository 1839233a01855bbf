"""The faulty carrier does as told, over the memory pair, with a scheduler and timers by hand."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from relayrpc.carrier.faulty import Direction, FaultyCarrier
from relayrpc.carrier.memory import MemoryCarrier, memory_pair
from relayrpc.errors import CarrierLostError
from relayrpc.limits import DEFAULT_LIMITS, KIB


class Timer:
    def __init__(self, timers: Timers, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self._timers = timers

    def cancel(self) -> None:
        if self in self._timers.set:
            self._timers.set.remove(self)


class Timers:
    """`call_soon` and `call_later` of a loop that turns by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        # In the order in which they were set.
        self.set: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self, self.now_s + delay_s, callback)
        self.set.append(timer)
        return timer

    def turn(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def pass_time(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        self.turn()
        while due := [timer for timer in self.set if timer.due_s <= end_s]:
            first = min(due, key=lambda timer: timer.due_s)
            first.cancel()
            self.now_s = first.due_s
            first.callback()
            self.turn()
        self.now_s = end_s


class Listener:
    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.ends: list[CarrierLostError | None] = []
        self.writable_count = 0

    def batch_received(self, batch: bytes) -> None:
        assert not self.ends
        self.batches.append(batch)

    def writable(self) -> None:
        self.writable_count += 1

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        self.ends.append(error)


class Pipe:
    """A faulty end and a sound one, both started."""

    def __init__(self) -> None:
        self.timers = Timers()
        left, right = memory_pair(limits=DEFAULT_LIMITS, schedule=self.timers.call_soon)
        self.far_carrier: MemoryCarrier = right
        self.faulty = FaultyCarrier(
            left, rng=random.Random(7), call_later=self.timers.call_later
        )
        self.near, self.far = Listener(), Listener()
        self.faulty.start(self.near)
        right.start(self.far)

    def send(self, direction: Direction, *batches: bytes) -> None:
        carrier = self.faulty if direction == "outgoing" else self.far_carrier
        for batch in batches:
            carrier.send_nowait(batch)
        self.timers.turn()

    def arrived(self, direction: Direction) -> list[bytes]:
        return (self.far if direction == "outgoing" else self.near).batches


DIRECTIONS: list[Direction] = ["outgoing", "incoming"]


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def test_cut_ends_both_at_once(pipe: Pipe) -> None:
    pipe.send("outgoing", b"1")
    pipe.faulty.cut()
    pipe.timers.turn()
    assert [type(end) for end in pipe.near.ends] == [CarrierLostError]
    assert [type(end) for end in pipe.far.ends] == [CarrierLostError]
    assert not pipe.faulty.is_writable


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("is_delivered", [True, False])
def test_cut_after_counts_batches(pipe: Pipe, direction: Direction, is_delivered: bool) -> None:
    pipe.send(direction, b"0")
    pipe.faulty.cut_after(2, direction=direction, is_delivered=is_delivered)
    pipe.send(direction, b"1", b"2", b"3")
    pipe.timers.turn()
    arrived = pipe.arrived(direction)
    # A cut takes what is on its way in the memory pipe with it, as it does in a socket's buffers.
    assert arrived == [b"0", b"1", b"2"][: len(arrived)]
    assert b"3" not in arrived
    if direction == "incoming":
        assert (b"2" in arrived) == is_delivered
    assert len(pipe.near.ends) == len(pipe.far.ends) == 1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_delay_keeps_order(pipe: Pipe, direction: Direction) -> None:
    pipe.faulty.delay(1.0, jitter_s=0.5)
    sent = [b"%d" % index for index in range(20)]
    pipe.send(direction, *sent)
    pipe.timers.pass_time(0.99)
    assert pipe.arrived(direction) == []
    pipe.timers.pass_time(1.0)
    assert pipe.arrived(direction) == sent


def test_delayed_end_comes_after_the_batches(pipe: Pipe) -> None:
    pipe.faulty.delay(1.0)
    pipe.send("incoming", b"1")
    pipe.far_carrier.close()
    pipe.timers.turn()
    assert pipe.near.batches == []
    assert pipe.near.ends == []
    pipe.timers.pass_time(2.0)
    assert pipe.near.batches == [b"1"]
    assert pipe.near.ends == [None]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_stall_is_silent_and_resume_loses_nothing(pipe: Pipe, direction: Direction) -> None:
    pipe.faulty.stall()
    pipe.send(direction, b"1", b"2")
    pipe.timers.pass_time(60.0)
    assert pipe.arrived(direction) == []
    pipe.faulty.resume()
    pipe.timers.turn()
    assert pipe.arrived(direction) == [b"1", b"2"]


def test_stall_hides_the_end(pipe: Pipe) -> None:
    pipe.faulty.stall()
    pipe.far_carrier.abort()
    pipe.timers.pass_time(60.0)
    assert pipe.near.ends == []
    pipe.faulty.resume()
    pipe.timers.turn()
    assert len(pipe.near.ends) == 1


def test_stall_hides_the_end_until_it_is_given_up(pipe: Pipe) -> None:
    pipe.faulty.stall()
    pipe.far_carrier.abort()
    pipe.timers.turn()
    pipe.faulty.abort()
    pipe.timers.pass_time(1.0)
    assert len(pipe.near.ends) == 1


def test_stall_fills_up_and_says_when_there_is_room(pipe: Pipe) -> None:
    pipe.faulty.stall(["outgoing"])
    sent_count = 0
    while pipe.faulty.is_writable:
        pipe.send("outgoing", b"x" * (16 * KIB))
        sent_count += 1
    assert sent_count == 5
    pipe.faulty.resume()
    pipe.timers.turn()
    assert len(pipe.far.batches) == sent_count
    assert pipe.near.writable_count == 1
    assert pipe.faulty.is_writable


def test_delay_fills_up_and_says_when_there_is_room(pipe: Pipe) -> None:
    pipe.faulty.delay(1.0)
    while pipe.faulty.is_writable:
        pipe.send("outgoing", b"x" * (16 * KIB))
    pipe.timers.pass_time(2.0)
    assert pipe.near.writable_count == 1
    assert pipe.faulty.is_writable


def test_close_while_stalled_ends_all_the_same(pipe: Pipe) -> None:
    pipe.faulty.stall()
    pipe.send("outgoing", b"1")
    pipe.faulty.close()
    pipe.timers.pass_time(60.0)
    assert len(pipe.near.ends) == 1
    assert len(pipe.far.ends) == 1


@pytest.mark.parametrize("end", ["close", "cut", "stall"])
def test_carrier_that_is_over_leaves_no_timer(pipe: Pipe, end: str) -> None:
    if end == "stall":
        pipe.faulty.stall()
    elif end == "cut":
        pipe.faulty.cut()
    pipe.faulty.close()
    pipe.timers.turn()
    assert bool(pipe.timers.set) == (end == "stall"), "only what does not end needs to be given up"
    pipe.timers.pass_time(10.0)
    assert pipe.faulty.is_over
    assert not pipe.timers.set


@pytest.mark.parametrize("end", [FaultyCarrier.close, FaultyCarrier.abort])
def test_carrier_that_ended_before_it_was_started_is_over(
    end: Callable[[FaultyCarrier], None],
) -> None:
    timers = Timers()
    left, _ = memory_pair(limits=DEFAULT_LIMITS, schedule=timers.call_soon)
    faulty = FaultyCarrier(left, rng=random.Random(7), call_later=timers.call_later)
    assert not faulty.is_over
    end(faulty)
    assert faulty.is_over


def test_same_seed_gives_the_same_arrivals() -> None:
    def arrivals() -> list[int]:
        pipe = Pipe()
        pipe.faulty.delay(0.0, jitter_s=1.0)
        pipe.send("incoming", *(b"%d" % index for index in range(50)))
        counts = []
        for _ in range(10):
            pipe.timers.pass_time(0.1)
            counts.append(len(pipe.near.batches))
        return counts

    assert arrivals() == arrivals()
    assert arrivals()[-1] == 50
