"""
Messages as JSON, over many of them. Goal: what is written is read back as it was, and no text
raises anything but a JSONError. Method: Hypothesis makes messages of every kind, and damages what
they are written as.
"""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.contract.json import parse_json, write_json
from relayrpc.errors import JSONError
from tests.support.json_messages import MESSAGES, message_class, messages


RANDOM = st.randoms(use_true_random=False)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(("", "AA", "1_0", "\ud800", "NaN", "1e999", "RED", "2020-01-01T00:00:00Z")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("@type", "value", "name", "inner", "a")), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("name", MESSAGES)
@given(data=st.data(), has_defaults=st.booleans())
def test_what_is_written_is_read_as_it_was(
    name: str, data: st.DataObject, has_defaults: bool
) -> None:
    message = data.draw(messages(name))
    text = write_json(message, has_defaults=has_defaults)
    read = parse_json(text, type(message))
    # The order of a map's entries is nobody's.
    assert json.loads(write_json(read)) == json.loads(write_json(message))
    if "@type" not in text:
        assert read.SerializeToString(deterministic=True) == (
            message.SerializeToString(deterministic=True)
        )


def damaged(value: Any, rng: random.Random, junk: Any) -> Any:
    """Put junk in some place of a JSON value, which is changed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = damaged(value[key], rng, junk)
        return value
    return junk


@settings(deadline=None, max_examples=150)
@given(data=st.data(), rng=RANDOM, junk=ANY_JSON)
def test_junk_in_any_place_is_taken_or_a_json_error(
    data: st.DataObject, rng: random.Random, junk: Any
) -> None:
    message = data.draw(messages("relay.json.Everything"))
    text = json.dumps(damaged(json.loads(write_json(message)), rng, junk))
    with suppress(JSONError):
        read = parse_json(text, type(message))
        # What is taken has a JSON form.
        write_json(read)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), rng=RANDOM)
def test_damaged_bytes_are_taken_or_a_json_error(data: st.DataObject, rng: random.Random) -> None:
    message = data.draw(messages("relay.json.Everything"))
    text = bytearray(write_json(message).encode())
    for _ in range(rng.randint(1, 3)):
        text[rng.randrange(len(text))] = rng.choice(b'{}[]",:\\-0e.u\xff\x00N')
    with suppress(JSONError):
        parse_json(bytes(text), type(message))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_in_a_message_are_written_or_a_json_error(data: bytes) -> None:
    any_message = message_class("google.protobuf.Any")
    for type_url in ("x/relay.json.Everything", "x/relay.json.Older", data.decode("latin-1")):
        with suppress(JSONError):
            write_json(any_message(type_url=type_url, value=data))
