"""
Goal: the credit an inbox gives follows what is read: a sender never starves, an idle reader stops
it.

Method: a sender that uses all its credit against an inbox over a recording link; Hypothesis chooses
sizes and readings.
"""

from __future__ import annotations

import asyncio

import pytest
from grpc.aio import UsageError
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.endpoint.inbox import Assembly
from relayrpc.errors import FrameTooLargeError
from relayrpc.limits import Limits
from relayrpc.link.messages import encode_message
from tests.support.sending_peer import SendingPeer


LIMITS = Limits(initial_credit_bytes=4096, window_bytes_max=4096, message_bytes_max=100_000)


@given(
    st.lists(st.integers(min_value=0, max_value=10_000), min_size=1, max_size=12),
    st.lists(st.integers(min_value=16, max_value=5_000), min_size=1, max_size=20),
    st.integers(min_value=0, max_value=3),
)
def test_sender_never_starves_while_the_reader_reads(
    sizes: list[int], cuts: list[int], reads_behind: int
) -> None:
    messages = [bytes([index]) * size for index, size in enumerate(sizes)]
    sender = SendingPeer(messages)
    inbox = sender.open_inbox(LIMITS)
    taken: list[bytes] = []
    turn = 0
    while sender.sent_bytes < len(sender.stream):
        sent = sender.send(inbox, cuts[turn % len(cuts)])
        turn += 1
        # A reader that lags takes nothing until the sender is stopped.
        if len(inbox.messages) > reads_behind or not sent:
            assert sent or inbox.messages, "sender stopped although nothing waits to be read"
            while inbox.messages:
                taken.append(inbox.take())
        assert sender.credit_bytes <= LIMITS.window_bytes_max
    while inbox.messages:
        taken.append(inbox.take())
    assert taken == messages
    assert not inbox.is_truncated


def test_reader_that_never_reads_stops_the_sender_at_one_window() -> None:
    sender = SendingPeer([bytes(96)] * 1000)
    inbox = sender.open_inbox(LIMITS)
    while sender.send(inbox, 1000):
        pass
    assert sender.sent_bytes == LIMITS.initial_credit_bytes


def test_message_larger_than_the_window_arrives_without_a_reader() -> None:
    sender = SendingPeer([bytes(50_000)])
    inbox = sender.open_inbox(LIMITS)
    while sender.send(inbox, 1000):
        pass
    assert list(inbox.messages) == [bytes(50_000)]


def test_window_that_is_granted_already_is_not_granted_again() -> None:
    sender = SendingPeer([], credit_bytes=4096)
    sender.open_inbox(LIMITS)
    assert sender.credit_bytes == 4096


def test_nothing_is_granted_after_the_end() -> None:
    sender = SendingPeer([bytes(3000)])
    inbox = sender.open_inbox(LIMITS)
    sender.send(inbox, 5000)
    inbox.close()
    credit_bytes = sender.credit_bytes
    inbox.take()
    assert sender.credit_bytes == credit_bytes


def test_too_much_in_assembly_is_refused_and_given_back() -> None:
    limits = Limits(assembly_bytes_max=1500)
    assembly = Assembly(limits)
    first = SendingPeer([]).open_inbox(limits, assembly=assembly)
    second = SendingPeer([]).open_inbox(limits, assembly=assembly)
    first.receive(encode_message(bytes(1000))[:10])
    with pytest.raises(FrameTooLargeError, match="messages of 2000 bytes are being received"):
        second.receive(encode_message(bytes(1000))[:10])
    second.close()
    first.close()
    first.close()
    assert assembly.declared_bytes == 0


async def test_second_reader_is_told_that_one_waits() -> None:
    inbox = SendingPeer([]).open_inbox(LIMITS)
    loop = asyncio.get_running_loop()
    first = asyncio.create_task(inbox.wait(loop))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="another read is waiting"):
        await inbox.wait(loop)
    inbox.end()
    await first
