"""
Messages in a call's stream of bytes: each stands behind its length, four bytes big-endian. Pure.

Owns: cutting the stream into messages. Does not own: credit (flow.py), or what a message means.
Source: protos/relayrpc/v1/link.proto, "Messages".
"""

from __future__ import annotations

import struct
from typing import Final

from relayrpc.errors import FrameTooLargeError
from relayrpc.limits import MESSAGE_BYTES_UNLIMITED


__all__ = ["LENGTH_BYTES", "MessageReader", "MessageTooLargeError", "encode_message"]

LENGTH_BYTES: Final = 4
"""What a message costs in its stream beyond its own bytes."""

# Pieces of a message smaller than this are put together as they come, so that a peer that sends
# single bytes does not
# make us hold an object for each.
_PIECE_BYTES_MIN: Final = 4096

_pack_length = struct.Struct(">I").pack
_unpack_length = struct.Struct(">I").unpack_from


class MessageTooLargeError(ValueError):
    """A message that this side must not send; its text names both sizes."""


def encode_message(data: bytes, bytes_max: int = MESSAGE_BYTES_UNLIMITED) -> bytes:
    """
    Put a message's length before it.

    Raises:
        MessageTooLargeError: It is over `bytes_max`.
    """
    size = len(data)
    if size > bytes_max:
        raise MessageTooLargeError(f"sent message larger than max ({size} vs. {bytes_max})")
    return _pack_length(size) + data


class MessageReader:
    """Cuts one direction of one call into messages; holds at most the one in assembly."""

    __slots__ = ("_head", "_message_bytes_max", "_missing_bytes", "_pieces", "declared_bytes")

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        # The first bytes of a length that is not complete yet.
        self._head = b""
        # The message being put together, and how much of it is still to come.
        self._pieces: list[bytes | bytearray] = []
        self._missing_bytes = 0
        # Length of the message being put together, 0 when there is none.
        self.declared_bytes = 0

    @property
    def is_idle(self) -> bool:
        """True between two messages: where a stream may end."""
        return not self._missing_bytes and not self._head

    def receive_data(self, data: bytes) -> list[bytes]:
        """
        Take the next bytes of the stream, cut anywhere.

        Returns:
            The messages that are complete now, in order.

        Raises:
            FrameTooLargeError: A message declares more than the limit (peer fault); nothing of it
            is kept, and the reader
                is of no further use.
        """
        messages: list[bytes] = []
        offset = 0
        if self._missing_bytes:
            if len(data) < self._missing_bytes:
                self._missing_bytes -= len(data)
                self._keep(data)
                return messages
            offset = self._missing_bytes
            self._pieces.append(data if offset == len(data) else data[:offset])
            messages.append(b"".join(self._pieces))
            self._pieces.clear()
            self._missing_bytes = self.declared_bytes = 0
        elif self._head:
            data = self._head + data
            self._head = b""
        end = len(data)
        while end - offset >= LENGTH_BYTES:
            (size,) = _unpack_length(data, offset)
            if size > self._message_bytes_max:
                raise FrameTooLargeError(
                    f"received message larger than max ({size} vs. {self._message_bytes_max})",
                    size_bytes=size,
                    limit_bytes=self._message_bytes_max,
                )
            offset += LENGTH_BYTES
            stop = offset + size
            if stop > end:
                self.declared_bytes = size
                self._missing_bytes = stop - end
                if offset < end:
                    self._keep(data[offset:])
                return messages
            messages.append(data[offset:stop])
            offset = stop
        if offset < end:
            self._head = data[offset:]
        return messages

    def _keep(self, piece: bytes) -> None:
        pieces = self._pieces
        if len(piece) >= _PIECE_BYTES_MIN:
            pieces.append(piece)
        elif pieces and isinstance(pieces[-1], bytearray) and len(pieces[-1]) < _PIECE_BYTES_MIN:
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))
