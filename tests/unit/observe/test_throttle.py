"""What passes in a second, and what is said of the rest; on a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable

from relayrpc.observe.throttle import OTHERS, Key, Throttle


A: Key = (("of", "a"),)
B: Key = (("of", "b"),)


class Timer:
    def __init__(self, at_s: float, due: Callable[[], None]) -> None:
        self.at_s = at_s
        self.due = due
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """A throttle, its clock, its timers and what it said."""

    def __init__(self, *, passes_max: int = 2, keys_max: int = 2) -> None:
        self.now_s = 50.0
        self.timers: list[Timer] = []
        self.said: list[tuple[Key, int]] = []
        self.throttle = Throttle(
            passes_max=passes_max,
            keys_max=keys_max,
            clock=lambda: self.now_s,
            call_later=self._call_later,
            held_back=lambda key, count: self.said.append((key, count)),
        )

    def _call_later(self, delay_s: float, due: Callable[[], None]) -> Timer:
        timer = Timer(self.now_s + delay_s, due)
        self.timers.append(timer)
        return timer

    def ask(self, key: Key, times: int = 1) -> list[bool]:
        return [self.throttle.admits(key) for _ in range(times)]


def test_the_first_of_each_kind_pass_and_the_rest_is_counted() -> None:
    world = World()
    assert world.ask(A, 5) == [True, True, False, False, False]
    assert world.ask(B, 3) == [True, True, False]
    assert world.said == []
    world.now_s += 1.0
    assert world.ask(A) == [True]
    assert world.said == [(A, 3), (B, 1)]


def test_a_timer_says_it_when_nothing_follows() -> None:
    world = World()
    world.ask(A, 2)
    assert world.timers == []
    world.now_s += 0.25
    world.ask(A, 2)
    (timer,) = world.timers
    assert timer.at_s == 51.0
    world.now_s = timer.at_s
    timer.due()
    assert world.said == [(A, 2)]
    assert world.ask(A, 2) == [True, True]


def test_it_is_said_once() -> None:
    world = World()
    world.ask(A, 3)
    world.now_s += 2.0
    world.ask(A)
    assert [timer.is_cancelled for timer in world.timers] == [True]
    world.throttle.flush()
    assert world.said == [(A, 1)]


def test_beyond_the_bound_on_kinds_the_others_are_one() -> None:
    world = World(keys_max=1)
    assert world.ask(A) == [True]
    kinds: list[Key] = [(("of", f"{number}"),) for number in range(100)]
    assert [world.ask(kind)[0] for kind in kinds] == [True, True] + [False] * 98
    assert world.ask(A) == [True]
    world.throttle.flush()
    assert world.said == [(OTHERS, 98)]
