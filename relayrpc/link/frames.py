"""
Bytes of batches and frames: encoding, decoding, and the checks that need no state. Pure.

Owns: the envelope, sizes and field ranges. Does not own: what a frame means (link.py, call.py).
Source: protos/relayrpc/v1/link.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from relayrpc.errors import FrameDecodeError, FrameTooLargeError
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = [
    "BODY_UNNUMBERED",
    "PROTOCOL_VERSION",
    "MetadataPairs",
    "add_metadata",
    "check_metadata",
    "decode_batch",
    "encode_again",
    "encode_batch",
    "encode_data",
    "encode_frame",
    "encode_unnumbered",
    "metadata_bytes",
]

PROTOCOL_VERSION: Final = 1

MetadataPairs = Iterable[tuple[str, bytes]]
"""Metadata as the core takes it: (key, value as bytes), order and duplicates kept."""

BODY_UNNUMBERED: Final = frozenset(
    {"hello", "welcome", "resume", "expired", "ping", "pong", "close"}
)
"""Names of the Frame bodies that travel in unnumbered batches, and only there."""

_METADATA_ENTRY_BYTES: Final = 32
# Batch.frames is field 4, length-delimited. A frame is encoded together with that tag and its
# length, so that a batch is
# the plain concatenation of its header and its frames, and what is kept for sending again needs no
# second encoding.
_FRAME_TAG: Final = b"\x22"


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_PREFIXES: Final = [_FRAME_TAG + _varint(size) for size in range(2048)]


def encode_frame(frame: pb.Frame) -> bytes:
    """Encode one frame as it stands in a batch: tag, length, body."""
    body = frame.SerializeToString()
    size = len(body)
    if size < 2048:
        return _PREFIXES[size] + body
    return _FRAME_TAG + _varint(size) + body


def encode_data(call_id: int, size_bytes: int) -> bytes:
    """Encode what stands before the bytes of a data frame, which are then copied only once."""
    body = b"\x08" + _varint(call_id) + b"\x22" + _varint(size_bytes)
    return _FRAME_TAG + _varint(len(body) + size_bytes) + body


def encode_batch(parts: Iterable[bytes], *, number: int, ack: int) -> bytes:
    """Encode a numbered batch of encoded frames."""
    # Written out: a message object for two numbers costs more than they are worth.
    header = b"\x08" + _varint(number)
    if ack:
        header += b"\x10" + _varint(ack)
    return b"".join((header, *parts))


def encode_again(batch: bytes, *, ack: int, age_ms: int) -> bytes:
    """Encode a batch to be sent again: of a field that stands twice, the last one counts."""
    return batch + b"\x10" + _varint(ack) + b"\x18" + _varint(age_ms)


def encode_unnumbered(*frames: pb.Frame, ack: int = 0) -> bytes:
    """Encode an unnumbered batch: handshake, ping, pong, close, or an ack alone."""
    return pb.Batch(ack=ack, frames=frames).SerializeToString()


def decode_batch(data: bytes, *, batch_bytes_max: int) -> pb.Batch:
    """
    Decode one carrier message.

    Raises:
        FrameTooLargeError: It is larger than agreed (peer fault; the link ends).
        FrameDecodeError: It is no batch (peer fault; the link ends).
    """
    if len(data) > batch_bytes_max:
        raise FrameTooLargeError(
            f"batch of {len(data)} bytes is over the agreed {batch_bytes_max} bytes",
            size_bytes=len(data),
            limit_bytes=batch_bytes_max,
        )
    try:
        return pb.Batch.FromString(data)
    except DecodeError as exc:
        raise FrameDecodeError(f"carrier message of {len(data)} bytes is no batch") from exc


def add_metadata(entries: Iterable[pb.Metadatum], pairs: MetadataPairs) -> None:
    """Append pairs to a repeated Metadatum field."""
    for key, value in pairs:
        entries.add(key=key, value=value)  # type: ignore[attr-defined]  # a repeated field


def metadata_bytes(entries: Iterable[pb.Metadatum]) -> int:
    """Return the size of a list, as gRPC counts."""
    size = 0
    for entry in entries:
        size += len(entry.key) + len(entry.value) + _METADATA_ENTRY_BYTES
    return size


def check_metadata(entries: Iterable[pb.Metadatum], limits: Limits) -> None:
    """
    Check the size of a received list.

    Raises:
        FrameTooLargeError: The list is over Limits.metadata_bytes_max (peer fault).
    """
    size = metadata_bytes(entries)
    if size > limits.metadata_bytes_max:
        raise FrameTooLargeError(
            f"metadata of {size} bytes is over {limits.metadata_bytes_max} bytes",
            size_bytes=size,
            limit_bytes=limits.metadata_bytes_max,
        )
