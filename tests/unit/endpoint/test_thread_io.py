"""
Goal: a thread that reads gives credit as one on the loop does, whenever the loop comes to it; a
thread that writes is held back by what is unsent, and let go when the call is over.

Method: an inbox and a sending peer as in test_inbox.py, a loop that comes to its jobs when the test
says so; Hypothesis chooses sizes, cuts and when that is.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.endpoint.handover import Bell
from relayrpc.endpoint.inbox import Inbox
from relayrpc.endpoint.thread_io import Receiver, Sender
from relayrpc.limits import Limits
from relayrpc.link.messages import MessageTooLargeError, encode_message
from tests.support.sending_peer import SendingPeer


LIMITS = Limits(initial_credit_bytes=4096, window_bytes_max=4096, message_bytes_max=100_000)


class Jobs:
    """A handover whose loop comes to its jobs when it is told to."""

    is_own_thread = False

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def submit(self, function: Callable[..., object], *arguments: Any) -> None:
        self.waiting.append((function, arguments))

    def run(self) -> None:
        while self.waiting:
            function, arguments = self.waiting.popleft()
            function(*arguments)


def receiving(peer: SendingPeer, jobs: Jobs) -> tuple[Inbox, Receiver]:
    inbox = peer.open_inbox(LIMITS)
    side = SimpleNamespace(inbox=inbox, is_over=False)
    return inbox, Receiver(side, handover=cast("Any", jobs), bell=Bell())


@given(
    st.lists(st.integers(min_value=0, max_value=10_000), min_size=1, max_size=12),
    st.lists(st.integers(min_value=16, max_value=5_000), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=8),
)
def test_peer_never_starves_while_a_thread_reads(
    sizes: list[int], cuts: list[int], loop_turns: list[bool]
) -> None:
    messages = [bytes([index]) * size for index, size in enumerate(sizes)]
    peer, jobs = SendingPeer(messages), Jobs()
    inbox, receiver = receiving(peer, jobs)
    taken: list[bytes | None] = []
    turn = 0
    while peer.sent_bytes < len(peer.stream):
        sent = peer.send(inbox, cuts[turn % len(cuts)])
        while inbox.messages:
            taken.append(receiver.take())
        if loop_turns[turn % len(loop_turns)]:
            jobs.run()
        elif not sent:
            assert jobs.waiting, "the peer is stopped, and the loop has nothing to do about it"
            jobs.run()
        turn += 1
        assert peer.credit_bytes <= LIMITS.window_bytes_max
    while inbox.messages:
        taken.append(receiver.take())
    assert taken == messages
    inbox.end()
    assert receiver.take() is None


def test_thread_that_never_reads_stops_the_peer_at_one_window() -> None:
    peer, jobs = SendingPeer([bytes(96)] * 1000), Jobs()
    inbox, receiver = receiving(peer, jobs)
    assert peer.send(inbox, 1000)
    assert receiver.take() == bytes(96)
    while peer.send(inbox, 1000):
        jobs.run()
    # Taken and not counted yet is less than what is counted at a time.
    assert peer.sent_bytes <= LIMITS.window_bytes_max + inbox.settle_bytes


def test_messages_that_are_here_at_the_end_are_taken_before_it() -> None:
    peer = SendingPeer([b"1", b"2"])
    inbox, receiver = receiving(peer, Jobs())
    assert peer.send(inbox, 100)
    inbox.end()
    assert [receiver.take(), receiver.take(), receiver.take()] == [b"1", b"2", None]


# --- sending ---


class Side:
    """What a sender writes to; its link never sends anything."""

    def __init__(self) -> None:
        self.call: Any = SimpleNamespace(unsent_bytes=0)
        self.is_over = False
        self.sent: list[bytes] = []

    def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)
        self.call.unsent_bytes += len(data)


def sending(side: Side, jobs: Jobs, bell: Bell, **options: Any) -> Sender:
    return Sender(side, handover=cast("Any", jobs), bell=bell, high_bytes=100, **options)


def test_sender_does_not_wait_below_the_mark() -> None:
    side, jobs = Side(), Jobs()
    sender = sending(side, jobs, Bell())
    assert all(sender.send(bytes(16)) for _ in range(5))
    assert not side.sent
    jobs.run()
    assert side.sent == [encode_message(bytes(16))] * 5


@contextlib.contextmanager
def held_back(side: Side, jobs: Jobs, bell: Bell) -> Iterator[list[bool]]:
    """A thread that sends too much and waits; what its send() returned comes into the list."""
    sender = sending(side, jobs, bell)
    returned: list[bool] = []
    thread = threading.Thread(target=lambda: returned.append(sender.send(bytes(200))))
    thread.start()
    while len(jobs.waiting) < 2:
        pass
    yield returned
    thread.join()


def test_sender_waits_until_enough_is_sent() -> None:
    side, jobs, bell = Side(), Jobs(), Bell()
    with held_back(side, jobs, bell) as returned:
        jobs.run()
        bell.ring()
        assert not returned, "it went on although everything is unsent"
        side.call.unsent_bytes = 100
        bell.ring()
    assert returned == [True]


def test_sender_is_let_go_when_the_call_is_over() -> None:
    side, jobs, bell = Side(), Jobs(), Bell()
    with held_back(side, jobs, bell) as returned:
        side.is_over, side.call = True, None
        bell.ring()
    assert returned == [False]
    assert not sending(side, jobs, bell).send(b"late")


def test_message_over_the_bound_is_not_sent() -> None:
    side, jobs = Side(), Jobs()
    with pytest.raises(MessageTooLargeError):
        sending(side, jobs, Bell(), bytes_max=10).send(bytes(11))
    assert not jobs.waiting
