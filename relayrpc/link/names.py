"""
Numbers for strings that a link uses again and again: addresses and method names. Pure.

Owns: both tables and their bounds. Source: protos/relayrpc/v1/link.proto, Name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayrpc.errors import FrameDecodeError, ProtocolError
from relayrpc.link.frames import encode_frame
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits
    from relayrpc.link.outbox import Outbox


__all__ = ["NamesIn", "NamesOut"]


class NamesOut:
    """Strings this end has numbered."""

    __slots__ = ("_names_max", "_outbox", "numbers")

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self._names_max = limits.names_max
        self._outbox = outbox
        self.numbers: dict[str, int] = {}
        """The number of every string that has one."""

    def define(self, text: str) -> int:
        """Number a string and tell the peer; 0 when the table is full: it is to be sent in full."""
        number = len(self.numbers) + 1
        if number > self._names_max:
            return 0
        self.numbers[text] = number
        self._outbox.add_name(encode_frame(pb.Frame(name=pb.Name(number=number, text=text))))
        return number


class NamesIn:
    """Strings the peer has numbered."""

    __slots__ = ("_name_bytes_max", "_names", "_names_max")

    def __init__(self, limits: Limits) -> None:
        self._names_max = limits.names_max
        self._name_bytes_max = limits.name_bytes_max
        self._names: list[str] = []

    def define(self, name: pb.Name) -> None:
        """
        Take a definition.

        Raises:
            ProtocolError: Its number is not the next one, or the table is full.
            FrameDecodeError: The text is empty or too long.
        """
        if name.number != len(self._names) + 1 or name.number > self._names_max:
            raise ProtocolError(f"name {name.number} after {len(self._names)}", number=name.number)
        self._check(name.text)
        self._names.append(name.text)

    def by_number(self, number: int) -> str:
        """
        Return the string behind a number, 1 or above.

        Raises:
            ProtocolError: It was never defined.
        """
        if number > len(self._names):
            raise ProtocolError(f"name {number} is not defined", number=number)
        return self._names[number - 1]

    def in_full(self, text: str) -> str:
        """
        Return a string that was sent in full.

        Raises:
            FrameDecodeError: It is empty or too long.
        """
        self._check(text)
        return text

    def _check(self, text: str) -> None:
        size = len(text.encode())
        if not 0 < size <= self._name_bytes_max:
            raise FrameDecodeError(f"name of {size} bytes")
