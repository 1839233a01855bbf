"""
Numbered names. Goal: both tables agree, and neither grows without bound. Method: one table, or a
pair of links, by hand.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.errors import FrameDecodeError, ProtocolError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.events import CallOpened
from relayrpc.link.names import NamesIn
from relayrpc.v1 import link_pb2 as pb
from tests.support.link_pair import link_pair, pump, take_batches


LIMITS = dataclasses.replace(DEFAULT_LIMITS, names_max=3)


def _names(*texts: str) -> NamesIn:
    names = NamesIn(LIMITS)
    for number, text in enumerate(texts, start=1):
        names.define(pb.Name(number=number, text=text))
    return names


def test_name_is_sent_once_and_before_its_first_use() -> None:
    dialler, _ = link_pair()
    for _ in range(2):
        dialler.open_call("s/m", "a", shape=pb.SHAPE_UNKNOWN, app=None, now_s=0.0)
    (batch,) = take_batches(dialler)
    frames = pb.Batch.FromString(batch).frames
    assert [frame.WhichOneof("body") for frame in frames] == ["name", "name", "open", "open"]
    assert [frame.name.text for frame in frames[:2]] == ["s/m", "a"]
    assert [(frame.open.method, frame.open.address) for frame in frames[2:]] == [(1, 2), (1, 2)]


def test_names_beyond_the_table_are_sent_in_full() -> None:
    dialler, acceptor = link_pair(LIMITS)
    wanted = [(f"s/m{index}", f"a{index}") for index in range(4)] * 2
    for method, address in wanted:
        dialler.open_call(method, address, shape=pb.SHAPE_UNKNOWN, app=None, now_s=0.0)
    events = pump(dialler, acceptor)
    opened = [event.call for event in events if isinstance(event, CallOpened)]
    assert [(call.method, call.address) for call in opened] == wanted


def test_address_left_out_is_the_service() -> None:
    dialler, acceptor = link_pair()
    dialler.open_call("pkg.S/m", "", shape=pb.SHAPE_UNKNOWN, app=None, now_s=0.0)
    (event,) = pump(dialler, acceptor)
    assert isinstance(event, CallOpened)
    assert event.call.address == "pkg.S"


def test_names_are_found_by_number() -> None:
    names = _names("x", "y")
    assert [names.by_number(number) for number in (1, 2)] == ["x", "y"]


@pytest.mark.parametrize("number", [0, 2, 4])
def test_name_out_of_order_is_a_fault(number: int) -> None:
    names = _names("x", "y")
    with pytest.raises(ProtocolError):
        names.define(pb.Name(number=number, text="z"))


def test_name_beyond_the_table_is_a_fault() -> None:
    names = _names("x", "y", "z")
    with pytest.raises(ProtocolError):
        names.define(pb.Name(number=4, text="more"))


@pytest.mark.parametrize("number", [1, 2**32 - 1])
def test_number_that_was_never_defined_is_a_fault(number: int) -> None:
    with pytest.raises(ProtocolError, match="not defined"):
        _names().by_number(number)


@pytest.mark.parametrize("text", ["", "x" * 513, "é" * 257])
def test_name_of_a_wrong_length_is_a_fault(text: str) -> None:
    with pytest.raises(FrameDecodeError):
        _names(text)
    with pytest.raises(FrameDecodeError):
        _names().in_full(text)


def test_name_of_the_greatest_length_is_taken() -> None:
    text = "é" * 256
    assert _names(text).by_number(1) == _names().in_full(text) == text
