"""The sample's caller notices a broken stream. Goal: the demo can fail. Method: streams made up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from samples.greeter import caller, greeter_pb2


class StreamOf:
    """Stands for a generated stub whose stream gives these numbers."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = numbers

    async def ListGreetings(self, request: Any) -> AsyncIterator[greeter_pb2.HelloReply]:
        for number in self.numbers:
            yield greeter_pb2.HelloReply(number=number)


async def test_caller_accepts_complete_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert await caller.read_long_stream(StreamOf([1, 2, 3]), 3)
    assert "none lost, none doubled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "numbers", [[1, 3], [1, 2, 2, 3], [1, 3, 2], [1, 2], [1, 2, 3, 4]], ids=str
)
async def test_caller_refuses_lost_doubled_or_reordered(numbers: list[int]) -> None:
    assert not await caller.read_long_stream(StreamOf(numbers), 3)
