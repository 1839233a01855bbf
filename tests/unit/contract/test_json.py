"""
Messages as JSON. Goal: what the mapping refuses is refused, with the place named, and nothing else
is. Method: a table of texts, with the error of each; what peers put into messages, written.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from relayrpc.contract.json import parse_json, write_json
from relayrpc.errors import JSONError
from relayrpc.limits import DEFAULT_LIMITS, Limits
from tests.support.json_messages import message_class


COLORS = "relay.json.Color (COLOR_UNSPECIFIED, RED, BLUE, AZURE)"
ANY = "type.googleapis.com/"


def read(text: str | bytes, name: str = "relay.json.Everything", **bounds: int) -> Any:
    limits = replace(DEFAULT_LIMITS, **bounds) if bounds else DEFAULT_LIMITS
    return parse_json(text, message_class(name), limits=limits)


def refusal(text: str | bytes, name: str = "relay.json.Everything", **bounds: int) -> JSONError:
    with pytest.raises(JSONError) as caught:
        read(text, name, **bounds)
    return caught.value


# --- what is refused, and where ---


@pytest.mark.parametrize(
    ("text", "error"),
    [
        # Fields that are not there.
        ('{"anInt": 1}', 'relay.json.Everything has no field "anInt"'),
        ('{"inner": {"x": 1}}', 'inner: relay.json.Everything has no field "x"'),
        ('{"items": [{}, {"x": 1}]}', 'items[1]: relay.json.Everything has no field "x"'),
        (
            '{"byUint64": {"7": {"x": 1}}}',
            'byUint64["7"]: relay.json.Everything has no field "x"',
        ),
        (
            '{"[relay.json.nothing]": 1}',
            'relay.json.Everything has no field "[relay.json.nothing]"',
        ),
        ('{"empty": {"x": 1}}', 'empty: google.protobuf.Empty has no field "x"'),
        # Wrong types.
        ("5", "5 is no relay.json.Everything"),
        ("null", "null is no relay.json.Everything"),
        ('"text"', '"text" is no relay.json.Everything'),
        ("[]", "[] is no relay.json.Everything"),
        ('{"inner": []}', "inner: [] is no relay.json.Everything"),
        ('{"inner": {"inner": "x"}}', 'inner.inner: "x" is no relay.json.Everything'),
        ('{"anInt32": "x"}', 'anInt32: "x" is no int32'),
        ('{"anInt32": true}', "anInt32: true is no int32"),
        ('{"anInt32": 1.5}', "anInt32: 1.5 is no int32"),
        ('{"anInt32": [1]}', "anInt32: [1] is no int32"),
        ('{"anInt32": "1_0"}', 'anInt32: "1_0" is no int32'),
        ('{"anInt32": " 1"}', 'anInt32: " 1" is no int32'),
        ('{"anInt32": "\\u0661"}', 'anInt32: "\\u0661" is no int32'),
        ('{"aDouble": "x"}', 'aDouble: "x" is no double'),
        ('{"aDouble": true}', "aDouble: true is no double"),
        ('{"aDouble": "infinity"}', 'aDouble: "infinity" is no double'),
        ('{"aBool": "true"}', 'aBool: "true" is no bool'),
        ('{"aBool": 1}', "aBool: 1 is no bool"),
        ('{"aString": 5}', "aString: 5 is no string"),
        ('{"aString": "\\ud800"}', 'aString: "\\ud800" is no string'),
        ('{"int64s": 1}', "int64s: 1 is no list"),
        ('{"int64s": [1, null]}', "int64s[1]: null is no int64"),
        ('{"items": [null]}', "items[0]: null is no relay.json.Everything"),
        ('{"labels": []}', "labels: [] is no object"),
        ('{"labels": {"a b": 1}}', 'labels["a b"]: 1 is no string'),
        ('{"labels": {"a": null}}', "labels.a: null is no string"),
        ('{"boxedInt32": "x"}', 'boxedInt32: "x" is no int32'),
        ('{"struct": []}', "struct: [] is no google.protobuf.Struct"),
        ('{"list": {}}', "list: {} is no google.protobuf.ListValue"),
        # Numbers out of range.
        ('{"anInt32": 2147483648}', "anInt32: 2147483648 is no int32"),
        ('{"aUint32": -1}', "aUint32: -1 is no uint32"),
        ('{"int64s": [0, "9223372036854775808"]}', 'int64s[1]: "9223372036854775808" is no int64'),
        ('{"aFloat": 1e39}', "aFloat: 1e+39 is no float"),
        ('{"aFloat": "1e39"}', 'aFloat: "1e39" is no float'),
        ('{"aDouble": 1e999}', "aDouble: Infinity is no double"),
        ('{"aDouble": "1e999"}', 'aDouble: "1e999" is no double'),
        ('{"values": [1e999]}', "values[0]: Infinity is no google.protobuf.Value"),
        # Enums.
        ('{"color": "GREEN"}', f'color: "GREEN" is no {COLORS}'),
        ('{"colors": ["RED", 1.5]}', f"colors[1]: 1.5 is no {COLORS}"),
        ('{"color": true}', f"color: true is no {COLORS}"),
        ('{"byBool": {"true": "GREEN"}}', f'byBool.true: "GREEN" is no {COLORS}'),
        # Base64, and types that are strings.
        ('{"someBytes": "!!!!"}', 'someBytes: "!!!!" is no base64'),
        ('{"blobs": ["AA==", "A"]}', 'blobs[1]: "A" is no base64'),
        ('{"boxedBytes": "é"}', 'boxedBytes: "\\u00e9" is no base64'),
        ('{"time": 5}', "time: 5 is no google.protobuf.Timestamp"),
        # Keys.
        ('{"byInt32": {"x": 1}}', 'byInt32: the key "x" is no int32'),
        ('{"byInt32": {"1": 1, "1_0": 1}}', 'byInt32: the key "1_0" is no int32'),
        ('{"byInt32": {"2147483648": 1}}', 'byInt32: the key "2147483648" is no int32'),
        ('{"byUint64": {"-1": {}}}', 'byUint64: the key "-1" is no uint64'),
        ('{"byBool": {"True": 1}}', 'byBool: the key "True" is no bool'),
        ('{"labels": {"\\ud800": ""}}', 'labels: the key "\\ud800" is no string'),
        # More than one of what there can be one.
        ('{"anInt32": 1, "anInt32": 1}', 'an object with two members "anInt32" is no JSON'),
        ('{"items": [{"x": 1, "x": 1}]}', 'items[0]: an object with two members "x" is no JSON'),
        ('{"anInt32": 1, "an_int32": 1}', '"anInt32" and "an_int32" exclude each other'),
        ('{"asNumber": 1, "asText": ""}', '"asNumber" and "asText" exclude each other'),
        (
            '{"inner": {"asMessage": {}, "asText": 5}}',
            'inner: "asMessage" and "asText" exclude each other',
        ),
        # What JSON does not have.
        ('{"aDouble": NaN}', "aDouble: NaN is no JSON"),
        ('{"values": [{"a": -Infinity}]}', "values[0].a: -Infinity is no JSON"),
        (f'{{"aDouble": {"9" * 5000}}}', "aDouble: a number of 5000 digits is no JSON"),
        # Any.
        ('{"any": {"a": 1}}', 'any["@type"]: is missing'),
        ('{"any": {"@type": 5}}', 'any["@type"]: 5 is no type that the contract knows'),
        ('{"any": {"@type": "x/y.Z"}}', 'any["@type"]: "x/y.Z" is no type that the contract knows'),
        (
            '{"any": {"@type": "\\ud800"}}',
            'any["@type"]: "\\ud800" is no type that the contract knows',
        ),
        (
            f'{{"anys": [{{"@type": "{ANY}relay.json.Everything", "anInt32": "x"}}]}}',
            'anys[0].anInt32: "x" is no int32',
        ),
        (
            f'{{"any": {{"@type": "{ANY}relay.json.Everything", "y": 1}}}}',
            'any: relay.json.Everything has no field "y"',
        ),
        (
            f'{{"any": {{"@type": "{ANY}relay.json.Everything", "someBytes": "!"}}}}',
            'any.someBytes: "!" is no base64',
        ),
        (f'{{"any": {{"@type": "{ANY}google.protobuf.Duration"}}}}', "any.value: is missing"),
        (
            f'{{"any": {{"@type": "{ANY}google.protobuf.BytesValue", "value": "!"}}}}',
            'any.value: "!" is no base64',
        ),
        (
            f'{{"any": {{"@type": "{ANY}google.protobuf.Int32Value", "value": 1, "x": 1}}}}',
            'any: google.protobuf.Any has no field "x"',
        ),
    ],
)
def test_error_names_the_place(text: str, error: str) -> None:
    assert str(refusal(text)) == error


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('{"time": "noon"}', 'time: "noon" is no google.protobuf.Timestamp: '),
        ('{"duration": "1"}', 'duration: "1" is no google.protobuf.Duration: '),
        ('{"mask": "a_b"}', 'mask: "a_b" is no google.protobuf.FieldMask: '),
        (
            f'{{"any": {{"@type": "{ANY}relay.json.Older"}}}}',
            'any: {"@type": "type.googleapis.com/relay.json.Older"} is no relay.json.Older: ',
        ),
    ],
)
def test_error_tells_what_protobuf_says_of_its_own_types(text: str, start: str) -> None:
    error = str(refusal(text))
    assert error.startswith(start)
    assert len(error) > len(start)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{", 1, 2),
        ('{"anInt32": 1,\n "aBool" true}', 2, 10),
        ("{}\n{}", 2, 1),
        ('{"aString": "a\nb"}', 1, 15),
        (b'{"aString":\n"\xc3\xa9\xff"}', 2, 3),
        (b"\xff", 1, 1),
        ('{"inner":' * 100_000, 1, 200 * len('{"inner":') + 1),
        ("[" * 100_000, 1, 201),
    ],
)
def test_text_that_is_no_json_is_refused_with_line_and_column(
    text: str | bytes, line: int, column: int
) -> None:
    error = refusal(text)
    assert error.detail == {"line": line, "column": column}
    assert str(error).startswith(f"line {line}, column {column}: ")


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("{}", "relay.json.Older", "name: is required and missing"),
        (
            '{"name": "a", "parts": [{"name": "b"}, {}]}',
            "relay.json.Older",
            "parts[1].name: is required and missing",
        ),
        (
            '{"name": "a", "size": 3}',
            "relay.json.Older",
            "size: 3 is no relay.json.Older.Size (SMALL, LARGE)",
        ),
        (
            '{"name": "a", "[relay.json.seal]": "!"}',
            "relay.json.Older",
            '["[relay.json.seal]"]: "!" is no base64',
        ),
        (
            '{"name": "a", "[relay.json.spares]": [{"name": 1}]}',
            "relay.json.Older",
            '["[relay.json.spares]"][0].name: 1 is no string',
        ),
        (
            '{"level": 7}',
            "relay.json.Edition",
            "level: 7 is no relay.json.Edition.Level (LOW, HIGH)",
        ),
        ('{"delimited": {"count": ""}}', "relay.json.Edition", 'delimited.count: "" is no int32'),
        ("NaN", "google.protobuf.Value", "NaN is no JSON"),
        ('"!"', "google.protobuf.BytesValue", '"!" is no base64'),
    ],
)
def test_error_names_the_place_in_other_syntaxes_and_types(
    text: str, name: str, error: str
) -> None:
    assert str(refusal(text, name)) == error


def test_what_is_shown_of_a_text_is_bounded_and_plain() -> None:
    key = "k\x1b[2J" + "x" * 1000
    error = refusal(json.dumps({"labels": {key: [1, 2]}}))
    assert key not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 200
    deep = refusal('{"struct": {"a": ' + "[" * 60 + '"\\ud800"' + "]" * 60 + "}}")
    assert len(str(deep)) < 300


# --- bounds ---


def nested(depth: int) -> str:
    """As many messages within one another."""
    return '{"inner": ' * (depth - 1) + "{}" + "}" * (depth - 1)


def test_depth_is_taken_to_its_bound_and_refused_beyond() -> None:
    read(nested(100))
    assert str(refusal(nested(101))).startswith("inner.inner.inner.")
    assert str(refusal(nested(101))).endswith("...: nested over 100 deep")
    read(nested(5), json_depth_max=5)
    assert str(refusal(nested(6), json_depth_max=5)) == (
        "inner.inner.inner.inner.inner: nested over 5 deep"
    )
    assert "nested over 5 deep" in str(refusal('{"value": [[[[]]]]}', json_depth_max=5))


def test_size_is_taken_to_its_bound_and_refused_beyond() -> None:
    text = '{"aString": "abc"}'
    read(text, json_bytes_max=len(text))
    error = "the JSON text has over 17 bytes"
    assert str(refusal(text, json_bytes_max=len(text) - 1)) == error
    assert str(refusal(text.encode(), json_bytes_max=len(text) - 1)) == error


def test_limits_take_no_more_depth_than_protobuf_has() -> None:
    from relayrpc.limits import limit_problems

    assert not limit_problems(Limits(json_depth_max=100))
    assert limit_problems(Limits(json_depth_max=101))


# --- what is taken ---


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ('{"anInt64": "-5"}', "an_int64", -5),
        ('{"an_int64": 5}', "an_int64", 5),
        ('{"anInt32": 1.0}', "an_int32", 1),
        ('{"anInt32": "1e3"}', "an_int32", 1000),
        ('{"anInt32": null}', "an_int32", 0),
        ('{"aDouble": "-Infinity"}', "a_double", float("-inf")),
        ('{"aFloat": 3.4028234e38}', "a_float", 3.4028234663852886e38),
        ('{"color": 2}', "color", 2),
        ('{"color": 77}', "color", 77),
        ('{"someBytes": "_-8"}', "some_bytes", b"\xff\xef"),
        ('{"someBytes": "/+8="}', "some_bytes", b"\xff\xef"),
        ('{"@named": "x"}', "named_otherwise", "x"),
        ('{"asText": null, "asNumber": 3}', "as_number", 3),
        ('{"aString": "\\ud83d\\ude00"}', "a_string", "\N{GRINNING FACE}"),
    ],
)
def test_what_the_mapping_allows_is_taken(text: str, field: str, value: object) -> None:
    assert getattr(read(text), field) == value
    assert getattr(read(text.encode()), field) == value


# --- writing ---


def test_defaults_are_written_as_asked() -> None:
    message = message_class("relay.json.Edition")(explicit_count=0)
    assert write_json(message) == '{"explicitCount": 0}'
    assert write_json(message, has_defaults=True) == (
        '{"explicitCount": 0, "count": 0, "levels": []}'
    )


def test_no_terminal_acts_on_what_is_written() -> None:
    text = write_json(read('{"aString": "\\u001b[2J\\u009b2J\\u2028\\u007f"}'))
    assert text == '{"aString": "\\u001b[2J\\u009b2J\\u2028\\u007f"}'


def test_message_without_json_form_is_refused_with_its_place() -> None:
    message = message_class("relay.json.Everything")()
    message.items.add().by_uint64[7].time.seconds = 10**15
    with pytest.raises(JSONError) as caught:
        write_json(message)
    assert str(caught.value).startswith('items[0].byUint64["7"].time: Timestamp is not valid')
    message.Clear()
    message.inner.any.type_url = "x/y.Z"
    with pytest.raises(JSONError, match=r"^inner\.any: Can not find .* x/y\.Z$"):
        write_json(message)
    message.inner.any.type_url = "x/relay.json.Everything"
    message.inner.any.value = b"\xff"
    with pytest.raises(JSONError, match=r"^inner\.any: Error parsing message"):
        write_json(message)
    message.inner.any.value = message_class("relay.json.Everything")(
        list={"values": [{"number_value": float("nan")}]}
    ).SerializeToString()
    with pytest.raises(JSONError, match=r"^inner\.any\.list\.values\[0\]: Fail to serialize NaN"):
        write_json(message)


def test_anys_within_one_another_without_end_are_refused() -> None:
    any_class = message_class("google.protobuf.Any")
    message = any_class()
    for _ in range(3000):
        message = any_class(type_url="x/google.protobuf.Any", value=message.SerializeToString())
    with pytest.raises(JSONError, match=r"^nested too deep$"):
        write_json(message)
