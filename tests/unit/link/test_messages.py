"""
Goal: messages come out of the stream as they went in, however it was cut, and nothing oversized
is held.

Method: hand-written bytes, and a Hypothesis round trip over random messages and cuts.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.errors import FrameTooLargeError
from relayrpc.link.messages import LENGTH_BYTES, MessageReader, encode_message


def test_message_stands_behind_its_big_endian_length() -> None:
    assert encode_message(b"abc") == b"\x00\x00\x00\x03abc"
    assert encode_message(b"") == b"\x00\x00\x00\x00"
    assert len(encode_message(b"")) == LENGTH_BYTES


def test_reader_returns_all_whole_messages_of_one_piece() -> None:
    reader = MessageReader(100)
    assert reader.receive_data(b"\0\0\0\1a\0\0\0\0\0\0\0\2bc") == [b"a", b"", b"bc"]
    assert reader.is_idle
    assert reader.declared_bytes == 0


def test_reader_waits_for_a_length_that_is_cut() -> None:
    reader = MessageReader(100)
    assert reader.receive_data(b"\0\0") == []
    assert not reader.is_idle
    assert reader.receive_data(b"\0") == []
    assert reader.receive_data(b"\2xy\0") == [b"xy"]
    assert not reader.is_idle
    assert reader.receive_data(b"\0\0\0") == [b""]
    assert reader.is_idle


def test_reader_says_what_the_message_in_assembly_will_take() -> None:
    reader = MessageReader(100)
    reader.receive_data(b"\0\0\0\5ab")
    assert reader.declared_bytes == 5
    assert not reader.is_idle
    assert reader.receive_data(b"cde") == [b"abcde"]
    assert reader.declared_bytes == 0


def test_reader_waits_for_a_message_of_which_only_the_length_is_here() -> None:
    reader = MessageReader(100)
    assert reader.receive_data(b"\0\0\0\1") == []
    assert not reader.is_idle
    assert reader.receive_data(b"z") == [b"z"]


def test_reader_refuses_a_message_over_the_limit_on_its_declared_length() -> None:
    reader = MessageReader(4)
    with pytest.raises(FrameTooLargeError) as caught:
        reader.receive_data(b"\0\0\0\5")
    assert str(caught.value) == "received message larger than max (5 vs. 4)"
    assert dict(caught.value.detail) == {"size_bytes": 5, "limit_bytes": 4}


def test_reader_takes_a_message_of_exactly_the_limit() -> None:
    assert MessageReader(4).receive_data(encode_message(b"1234")) == [b"1234"]


def test_single_bytes_are_not_held_as_single_objects() -> None:
    reader = MessageReader(100_000)
    stream = encode_message(bytes(50_000))
    for index in range(len(stream) - 1):
        assert reader.receive_data(stream[index : index + 1]) == []
    assert len(reader._pieces) < 20
    assert reader.receive_data(stream[-1:]) == [bytes(50_000)]


@given(
    st.lists(st.binary(max_size=9000), max_size=8),
    st.lists(st.integers(min_value=0, max_value=40_000), max_size=12),
)
def test_messages_come_out_as_they_went_in(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode_message, messages))
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    reader = MessageReader(9000)
    received: list[bytes] = []
    for start, stop in itertools.pairwise(places):
        received += reader.receive_data(stream[start:stop])
    assert received == messages
    assert reader.is_idle
