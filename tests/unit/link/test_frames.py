"""
Bytes of batches. Goal: what is written by hand is what protobuf would write. Method: round trips
against the generated classes.
"""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayrpc.errors import FrameDecodeError, FrameTooLargeError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.frames import (
    check_metadata,
    decode_batch,
    encode_again,
    encode_batch,
    encode_data,
    encode_frame,
    encode_unnumbered,
)
from relayrpc.v1 import link_pb2 as pb


BATCH_BYTES_MAX = DEFAULT_LIMITS.batch_bytes_max
NUMBERS = st.integers(1, 2**64 - 1)
SIZES = st.one_of(st.integers(0, 300), st.sampled_from((2047, 2048, 16_383, 16_384, 70_000)))


@given(number=NUMBERS, ack=st.integers(0, 2**64 - 1), sizes=st.lists(SIZES, max_size=4))
def test_numbered_batch_is_read_back(number: int, ack: int, sizes: list[int]) -> None:
    frames = [pb.Frame(call_id=index + 1, data=b"x" * size) for index, size in enumerate(sizes)]
    data = encode_batch(map(encode_frame, frames), number=number, ack=ack)
    assert decode_batch(data, batch_bytes_max=BATCH_BYTES_MAX * 2) == pb.Batch(
        number=number, ack=ack, frames=frames
    )


@given(call_id=NUMBERS, size=SIZES.filter(bool))
@example(call_id=127, size=2**21)
def test_head_of_a_data_frame_is_what_protobuf_writes(call_id: int, size: int) -> None:
    data = bytes(size)
    frame = pb.Frame(call_id=call_id, data=data)
    assert encode_data(call_id, size) + data == encode_frame(frame)
    assert pb.Batch.FromString(encode_frame(frame)).frames[0] == frame


@given(
    number=NUMBERS,
    acks=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    age_ms=st.integers(0, 2**64 - 1),
)
def test_batch_sent_again_has_the_new_ack_and_its_age(
    number: int, acks: tuple[int, int], age_ms: int
) -> None:
    frames = [pb.Frame(call_id=1, data=b"x"), pb.Frame(call_id=3, grant=7)]
    first = encode_batch(map(encode_frame, frames), number=number, ack=acks[0])
    again = encode_again(first, ack=acks[1], age_ms=age_ms)
    assert pb.Batch.FromString(again) == pb.Batch(
        number=number, ack=acks[1], age_ms=age_ms, frames=frames
    )


def test_unnumbered_batch_is_read_back() -> None:
    frames = [pb.Frame(ping=1), pb.Frame(pong=2)]
    assert pb.Batch.FromString(encode_unnumbered(*frames, ack=3)) == pb.Batch(ack=3, frames=frames)


def test_batch_over_the_agreed_size_is_refused_unread() -> None:
    with pytest.raises(FrameTooLargeError, match="11 bytes is over the agreed 10"):
        decode_batch(b"\xff" * 11, batch_bytes_max=10)


@given(st.binary(max_size=200))
def test_garbage_is_a_batch_or_a_fault(data: bytes) -> None:
    with contextlib.suppress(FrameDecodeError):
        decode_batch(data, batch_bytes_max=200)


@pytest.mark.parametrize(("value_bytes", "is_over"), [(60, False), (61, True)])
def test_metadata_is_measured_as_grpc_does(value_bytes: int, is_over: bool) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, metadata_bytes_max=3 * (32 + 8) + 60)
    values = (b"", b"", b"x" * value_bytes)
    entries = [pb.Metadatum(key="12345678", value=value) for value in values]
    if is_over:
        with pytest.raises(FrameTooLargeError):
            check_metadata(entries, limits)
    else:
        check_metadata(entries, limits)
