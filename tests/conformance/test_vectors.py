"""
The link keeps to the wire vectors. Goal: an implementation in another language can run the same.

Method: each file in vectors/ drives one real Link; changed vectors show that the runner can fail.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from relayrpc.v1 import link_pb2 as pb
from tests.support.wire_vectors import ACTIONS, EVENTS, FOLDER, Difference, load, run


NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
BODIES = {field.name for field in pb.Frame.DESCRIPTOR.oneofs_by_name["body"].fields}


def steps() -> Iterator[dict[str, Any]]:
    for name in NAMES:
        yield from load(name)["steps"]


def bodies(batches: list[dict[str, Any]]) -> set[str]:
    return {body for batch in batches for frame in batch.get("frames", []) for body in frame}


def repeat_last(expected: list[Any]) -> None:
    expected.append(copy.deepcopy(expected[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_link_keeps_to_vector(name: str) -> None:
    run(load(name))


@pytest.mark.parametrize("name", NAMES)
def test_runner_notices_more_and_less_than_expected(name: str) -> None:
    for key in ("expect_events", "expect_batches"):
        for change in (list.pop, repeat_last):
            vector = load(name)
            told = [step[key] for step in vector["steps"] if step.get(key)]
            # The last one: those before it may be another vector's, which this one comes after.
            for expected in told[-1:]:
                change(expected)
                with pytest.raises(Difference):
                    run(vector)


def test_runner_notices_a_field_that_differs() -> None:
    vector = load("unary_to_dialler")
    vector["steps"][-2]["expect_batches"][0]["frames"][0]["end"]["data"] = ""
    with pytest.raises(Difference):
        run(vector)


def test_runner_notices_hex_that_is_not_the_batch() -> None:
    vector = load("unary_from_dialler")
    received = [step for step in vector["steps"] if "hex" in step]
    received[-1]["hex"] = received[0]["hex"]
    with pytest.raises(Difference):
        run(vector)


def test_runner_notices_an_unknown_key() -> None:
    vector = load("new_link_dialler")
    vector["steps"][0]["att_s"] = 1
    with pytest.raises(Difference, match="att_s"):
        run(vector)


def test_vectors_send_every_frame() -> None:
    sent = [step["expect_batches"] for step in steps() if "expect_batches" in step]
    assert set().union(*map(bodies, sent)) - {"call_id"} == BODIES - {"expired"}


def test_vectors_receive_every_frame() -> None:
    received = [step["receive"] for step in steps() if "receive" in step]
    assert bodies(received) - {"call_id"} == BODIES


def test_vectors_use_every_action_and_event() -> None:
    assert {step["do"] for step in steps() if "do" in step} == set(ACTIONS)
    told = {event["event"] for step in steps() for event in step.get("expect_events", [])}
    assert told == {name for name, _ in EVENTS.values()}


def test_every_small_batch_stands_in_hex_too() -> None:
    """Large ones are runs of one byte, written as such."""
    for step in steps():
        if "receive" in step and "times" not in str(step["receive"]):
            assert "hex" in step, step


def test_page_explains_every_action_and_event() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in [*ACTIONS, *(name for name, _ in EVENTS.values())]:
        assert f"`{name}`" in page, name
