"""
What the simulated applications do in one call: sizes, turns, early ends, slow readers.

A script is made from the seed before the world starts; both ends look it up by the call's identity,
which travels as metadata, and every byte of every message follows from that identity.
Source: issue 3, "Simulation".
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from typing import Final

from relayrpc.v1 import link_pb2 as pb


__all__ = ["IDENTITY_KEY", "CallScript", "ReaderPlan", "message_bytes", "random_script"]

IDENTITY_KEY: Final = "sim-call"

_PATTERN_BYTES: Final = 4 * 1024 * 1024
_OFFSETS: Final = 4096
# One direction of one call, so that a seed stays cheap.
_STREAM_BYTES_MAX: Final = 600_000
_PATTERN: Final = random.Random(7).randbytes(_PATTERN_BYTES + _OFFSETS)

_UNARY_REQUEST: Final = (pb.SHAPE_UNARY_UNARY, pb.SHAPE_UNARY_STREAM)
_UNARY_RESPONSE: Final = (pb.SHAPE_UNARY_UNARY, pb.SHAPE_STREAM_UNARY)


def message_bytes(call_id: str, direction: str, index: int, size_bytes: int) -> bytes:
    """Make message `index` of one direction ("request" or "response") of one call."""
    head = f"{call_id}/{direction}/{index}/".encode()
    offset = zlib.crc32(head) % _OFFSETS
    return (head + _PATTERN[offset : offset + size_bytes])[:size_bytes]


@dataclass(frozen=True, slots=True)
class ReaderPlan:
    """How an application reads."""

    pause_s: float = 0.0
    """Between two messages; 0: at once."""
    stuck_after: int | None = None
    """Reads this many messages, then nothing more until the world lets it go."""


@dataclass(frozen=True, slots=True)
class CallScript:
    """One call, from both sides."""

    call_id: str
    method: str
    address: str
    shape: pb.Shape
    requests: tuple[int, ...]
    """Sizes in bytes."""
    responses: tuple[int, ...]
    answer: str = "after_requests"
    """When responses are written: "at_once", "in_turn" (one a request), "after_requests"."""
    first_requests: int = 0
    """How many requests go with the OPEN."""
    ends_after: int | None = None
    """The host ends the call after this many requests, whatever else was due."""
    end_with_last: bool = False
    """The last response travels in the END."""
    status: int = 0
    has_begin: bool = False
    handler_pause_s: float = 0.0
    request_pause_s: float = 0.0
    cancel_after_s: float | None = None
    cancel_after_responses: int = 0
    """Cancelled while response number this is handled; 0: not."""
    deadline_after_s: float | None = None
    order_key: str = ""
    wait_for_ready: bool = False
    credit_bytes: int | None = None
    caller_reader: ReaderPlan = field(default_factory=ReaderPlan)
    host_reader: ReaderPlan = field(default_factory=ReaderPlan)

    @property
    def is_stuck(self) -> bool:
        """True when it cannot be expected to end before readers are let go."""
        readers = (self.caller_reader, self.host_reader)
        return any(reader.stuck_after is not None for reader in readers)


def random_script(
    random: random.Random, call_id: str, *, address: str, service: str, size_scale: int
) -> CallScript:
    """
    Draw one call.

    Args:
        random: The world's.
        call_id: Its identity.
        address: Where it goes.
        service: Whose method.
        size_scale: Bytes of the credit windows of this world: sizes are drawn around it.
    """
    shape = pb.Shape.ValueType(random.choice((1, 1, 1, 2, 3, 4, 4)))
    is_unary_request = shape in _UNARY_REQUEST
    requests_count = 1 if is_unary_request else _count(random)
    responses_count = 1 if shape in _UNARY_RESPONSE else _count(random)
    requests = _sizes(random, size_scale, requests_count)
    responses = _sizes(random, size_scale, responses_count)
    if shape == pb.SHAPE_UNARY_STREAM:
        answer = "after_requests"
    else:
        answer = random.choice(("at_once", "in_turn", "after_requests"))
    return CallScript(
        call_id=call_id,
        method=f"{service}/{random.choice('ABC')}",
        address=address,
        shape=shape,
        requests=requests,
        responses=responses,
        answer=answer,
        first_requests=1 if is_unary_request else random.choice((0, 0, 1, requests_count)),
        ends_after=random.randrange(requests_count + 1) if random.random() < 0.07 else None,
        end_with_last=random.random() < 0.6,
        status=random.choice((5, 9, 16)) if random.random() < 0.1 else 0,
        has_begin=random.random() < 0.3,
        handler_pause_s=random.choice((0.0, 0.0, 0.0, 0.01, 0.3, 2.0)),
        request_pause_s=random.choice((0.0, 0.0, 0.0, 0.005, 0.2)),
        cancel_after_s=random.choice((0.0, 0.01, 0.1, 1.0)) if random.random() < 0.12 else None,
        cancel_after_responses=random.choice((1, 3)) if random.random() < 0.05 else 0,
        deadline_after_s=random.choice((0.0, 0.005, 0.1, 1.0, 6.0)) * (1 + random.random())
        if random.random() < 0.25
        else None,
        order_key=random.choice("kl") if random.random() < 0.25 else "",
        wait_for_ready=random.random() < 0.3,
        credit_bytes=random.choice((0, 1, size_scale // 2)) if random.random() < 0.1 else None,
        caller_reader=_reader(random),
        host_reader=_reader(random),
    )


def _count(random: random.Random) -> int:
    return random.choice((0, 1, 2, 3, 5, 9, 20))


def _sizes(random: random.Random, scale: int, count: int) -> tuple[int, ...]:
    sizes = []
    left = _STREAM_BYTES_MAX
    for _ in range(count):
        sizes.append(min(left, _size(random, scale)))
        left -= sizes[-1]
    return tuple(sizes)


def _size(random: random.Random, scale: int) -> int:
    draw = random.random()
    if draw < 0.1:
        return 0
    if draw < 0.55:
        return random.randrange(1, 200)
    if draw < 0.92:
        return random.randrange(1, scale)
    return random.randrange(scale, 6 * scale)


def _reader(random: random.Random) -> ReaderPlan:
    draw = random.random()
    if draw < 0.8:
        return ReaderPlan()
    if draw < 0.94:
        return ReaderPlan(pause_s=random.choice((0.002, 0.05)))
    return ReaderPlan(stuck_after=random.randrange(3))
