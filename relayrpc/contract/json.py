"""
Messages as JSON: protobuf's own mapping, in one place for all of the relay. Pure.

The mapping is json_format's. Around it stands what that leaves to its callers: bounds, one kind of
error that names the place, and refusing what it takes by oversight.
Owns: JSON in and out. Does not own: where texts come from, and what becomes of an error.
Source: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.json_places import Place, Places, misread, unknown
from relayrpc.contract.json_text import Key, fail, load_json, shown, too_deep
from relayrpc.errors import JSONError
from relayrpc.limits import DEFAULT_LIMITS, Limits


if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool


__all__ = ["parse_json", "write_json"]

_AnyMessage = TypeVar("_AnyMessage", bound=Message)

_REASON_CHARS_MAX: Final = 200
# What ends lines or begins commands where a terminal shows it; JSON has escapes for it.
_CONTROL: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


def parse_json(
    text: str | bytes,
    message_type: type[_AnyMessage],
    *,
    pool: DescriptorPool | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> _AnyMessage:
    """
    Read a message.

    Args:
        text: One JSON value; bytes are UTF-8.
        message_type: What it is.
        pool: Where the types are found that an Any names, and extensions; None: in the message's.
        limits: `json_*` count here.

    Raises:
        JSONError: It is no JSON, not of that type, or over a limit. `.detail` has the `path` of the
            value ("customer.items[3].price"; empty: the whole), or `line` and `column`.
    """
    # As it is: the types of protobuf's Message do not say all that it has.
    message: Any = message_type()
    pool = pool or message.DESCRIPTOR.file.pool
    loaded = load_json(text, limits)
    place = Places(pool).of(message.DESCRIPTOR, loaded)
    try:
        _convert(loaded, message, pool, limits)
    # Of a value of the wrong type json_format says whatever Python does.
    except Exception as error:
        keys = _way_to_refused(loaded, message_type(), pool, limits)
        fail(*_explain(place, loaded, keys, _innermost(error), limits), cause=error)
    if found := misread(place, loaded):
        fail(*found)
    if missing := message.FindInitializationErrors():
        raise JSONError(f"{missing[0]}: is required and missing", path=missing[0])
    result: _AnyMessage = message
    return result


def write_json(
    message: Any,
    *,
    pool: DescriptorPool | None = None,
    has_defaults: bool = False,
) -> str:
    """
    Write a message as one line of JSON that no terminal acts on.

    Args:
        message: What is written, a protobuf Message.
        pool: Where the types are found that an Any names; None: in the message's.
        has_defaults: What is 0, false or empty is written too, unless being set means something.

    Raises:
        JSONError: It holds what has no JSON form; `.detail` has the `path` of it.
    """
    pool = pool or message.DESCRIPTOR.file.pool
    try:
        text = json_format.MessageToJson(
            message,
            indent=None,
            ensure_ascii=False,
            descriptor_pool=pool,
            always_print_fields_with_no_presence=has_defaults,
        )
    except Exception as error:
        fail(*_find_unwritable(message, pool, error), cause=error)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


# --- why a text is refused ---


def _convert(loaded: Any, message: Message, pool: DescriptorPool, limits: Limits) -> None:
    json_format.ParseDict(
        loaded, message, descriptor_pool=pool, max_recursion_depth=limits.json_depth_max
    )


class _Object(dict[str, Any]):
    """Knows which member was looked at last; None: nobody is looking."""

    at: str | None = None

    def __iter__(self) -> Iterator[str]:
        for self.at in super().__iter__():
            yield self.at
        self.at = None

    def __getitem__(self, name: str) -> Any:
        self.at = name
        return super().__getitem__(name)


class _List(list[Any]):
    """Knows which value was looked at last; None: nobody is looking."""

    at: int | None = None

    def __iter__(self) -> Iterator[Any]:
        for self.at, value in enumerate(super().__iter__()):
            yield value
        self.at = None


def _watched(value: Any, depth: int) -> Any:
    """Copy a value as deep as a message may be, and beyond."""
    if depth and isinstance(value, dict):
        return _Object({name: _watched(inner, depth - 1) for name, inner in value.items()})
    if depth and isinstance(value, list):
        return _List([_watched(inner, depth - 1) for inner in value])
    return value


def _way_to_refused(
    loaded: Any, scratch: Message, pool: DescriptorPool, limits: Limits
) -> list[Key]:
    """Convert once more, and see where that stops."""
    value = _watched(loaded, 2 * limits.json_depth_max + 1)
    with suppress(Exception):
        _convert(value, scratch, pool, limits)
    keys: list[Key] = []
    while isinstance(value, _Object | _List) and value.at is not None:
        keys.append(value.at)
        value = value[value.at] if isinstance(value, _List) else value.get(value.at)
    return keys


def _explain(
    place: Place, value: Any, keys: list[Key], error: BaseException, limits: Limits
) -> tuple[list[Key], str]:
    """
    Say what is wrong with what json_format refused.

    Args:
        place: What the whole stands for.
        value: The whole.
        keys: The way to what json_format looked at last.
        error: What it said.
        limits: What it was told.
    """
    for count, key in enumerate(keys, start=1):
        if isinstance(value, dict):
            if fault := place.fault(value):
                return keys[: count - 1], fault
            if key not in value:
                return keys[:count], "is missing"
        inner = value[key]
        within = place.member(key, inner)
        if within is None:
            return keys[: count - 1], unknown(place, key)
        place, value = within, inner
    if isinstance(error, RecursionError) or "recursion depth" in str(error):
        return keys, too_deep(limits)
    text = f"{shown(value)} is no {place.wanted}"
    # Of types that are strings it tells more than that it is none.
    is_string = type(place) is Place and isinstance(value, str)
    is_telling = is_string or isinstance(error, EncodeError)
    return keys, f"{text}: {_reason(error)}" if is_telling else text


# --- why a message is not written ---


def _find_unwritable(
    message: Message, pool: DescriptorPool, error: BaseException
) -> tuple[list[Key], str]:
    """Go down to the least message that cannot be written."""
    if isinstance(error, RecursionError):
        return [], "nested too deep"
    for way, inner in _messages_within(message, pool):
        try:
            json_format.MessageToDict(inner, descriptor_pool=pool)
        except Exception as inner_error:
            keys, reason = _find_unwritable(inner, pool, inner_error)
            return [*way, *keys], reason
    return [], _reason(_innermost(error))


def _messages_within(message: Any, pool: DescriptorPool) -> Iterator[tuple[list[Key], Message]]:
    """Yield those directly within, as far as they can be read, each with the way to it."""
    # A type that is not known, bytes that are none of it, text that is no UTF-8: told by itself.
    with suppress(Exception):
        if message.DESCRIPTOR.full_name == "google.protobuf.Any":
            held = pool.FindMessageTypeByName(message.type_url.rpartition("/")[2])
            yield [], GetMessageClass(held).FromString(message.value)
            return
        for field, value in message.ListFields():
            if field.message_type is None:
                continue
            if not field.is_repeated:
                yield [field.json_name], value
            elif not field.message_type.GetOptions().map_entry:
                yield from (([field.json_name, index], each) for index, each in enumerate(value))
            elif field.message_type.fields_by_name["value"].message_type is not None:
                yield from (([field.json_name, str(key)], each) for key, each in value.items())


def _innermost(error: BaseException) -> BaseException:
    # A KeyError says less than what was made of it.
    while error.__cause__ is not None and not isinstance(error.__cause__, KeyError):
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Return what was said, without what a terminal might act on."""
    text = " ".join(str(error).split())[:_REASON_CHARS_MAX]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
