"""
JSON text as Python's values. Pure.

Stricter than the standard library: no member twice, no NaN, and an error says where it is. Owns:
that, and how places are written. Does not own: what the values stand for (json_places.py).
Source: RFC 8259.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from relayrpc.errors import JSONError
from relayrpc.limits import Limits


__all__ = ["Key", "fail", "items_of", "load_json", "shown", "too_deep"]

Key = str | int
"""The name of an object's member, or the index of a list's."""

_SHOWN_CHARS_MAX: Final = 60
_KEYS_SHOWN_MAX: Final = 16
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]')


def load_json(text: str | bytes, limits: Limits) -> Any:
    """
    Read one JSON value.

    Raises:
        JSONError: It is none, or over a limit; `.detail` has `line` and `column`, or the `path`.
    """
    if len(text) > limits.json_bytes_max:
        raise JSONError(f"the JSON text has over {limits.json_bytes_max} bytes")
    decoded = text if isinstance(text, str) else _decode(text)
    try:
        return json.loads(decoded, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        _fail_at(decoded[: error.pos], error.msg, error)
    except RecursionError as error:
        _fail_at(_up_to_depth(decoded, limits), too_deep(limits), error)
    except ValueError as error:
        # With a marker in each place that was refused, the first of them is found.
        marked = json.loads(
            decoded, object_pairs_hook=_unique_or_marker, parse_constant=_Marker, parse_int=_int
        )
        fail(*_first_marker(marked), cause=error)


def items_of(value: Any) -> Iterable[tuple[Key, Any]]:
    """Return what a JSON value holds, with its keys."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def shown(value: Any) -> str:
    """Write a JSON value as short as it can be read, in ASCII."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def too_deep(limits: Limits) -> str:
    """Say that there is too much within one another."""
    return f"nested over {limits.json_depth_max} deep"


def fail(keys: list[Key], text: str, *, cause: BaseException | None = None) -> NoReturn:
    """
    Raise the JSONError of a value.

    Args:
        keys: The way to it.
        text: What is wrong with it.
        cause: Whose message that is, or whence it is known.
    """
    path = _path(keys)
    raise JSONError(f"{path}: {text}" if path else text, path=path) from cause


def _path(keys: list[Key]) -> str:
    parts = [
        f".{key}" if isinstance(key, str) and _NAME.fullmatch(key) else f"[{shown(key)}]"
        for key in keys[:_KEYS_SHOWN_MAX]
    ]
    more = "..." if len(keys) > _KEYS_SHOWN_MAX else ""
    return "".join(parts).removeprefix(".") + more


def _fail_at(before: str, text: str, cause: BaseException) -> NoReturn:
    """Raise the error of what stands behind some text."""
    line = before.count("\n") + 1
    column = len(before) - before.rfind("\n")
    raise JSONError(f"line {line}, column {column}: {text}", line=line, column=column) from cause


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        _fail_at(data[: error.start].decode(), f"not UTF-8: {error.reason}", error)


def _up_to_depth(text: str, limits: Limits) -> str:
    """Return a text up to the bracket that makes it too deep for any message."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        # A message takes two at most: with the list that it is in.
        if depth > 2 * limits.json_depth_max:
            return text[: match.start()]
    return text


# --- what the standard library lets pass ---


class _Marker:
    """Stands for what cannot be used, and says what."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = f"{text} is no JSON"


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("two members of one name")
    return members


def _unique_or_marker(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Marker:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            return _Marker(f"an object with two members {shown(name)}")
        members[name] = value
    return members


def _int(text: str) -> int | _Marker:
    try:
        return int(text)
    except ValueError:
        return _Marker(f"a number of {len(text)} digits")


def _first_marker(loaded: Any) -> tuple[list[Key], str]:
    """Find the way to one and its text; without recursion, as there may be no room for that."""
    # Each with the one that it is in, and its key there.
    waiting: list[tuple[Any, Any, Key]] = [(loaded, None, "")]
    while not isinstance(waiting[-1][0], _Marker):
        entry = waiting.pop()
        waiting += [(inner, entry, key) for key, inner in reversed([*items_of(entry[0])])]
    entry = waiting[-1]
    text = entry[0].text
    keys: list[Key] = []
    while entry[1] is not None:
        keys.append(entry[2])
        entry = entry[1]
    return keys[::-1], text
