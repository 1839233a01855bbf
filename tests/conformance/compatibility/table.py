"""
The pairs of contracts that the compatibility of versions is tested with.

Owns: the .proto files of both versions, and which of the relay's own rules they break: those of
pairs.txt, and families made here. Does not own: what buf says of them (record.py asks it).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


__all__ = ["PAIRS", "Pair"]

INTEGERS = {
    "bool": (0, 1),
    **dict.fromkeys(("int32", "sint32", "sfixed32"), (-(2**31), 2**31 - 1)),
    **dict.fromkeys(("uint32", "fixed32"), (0, 2**32 - 1)),
    **dict.fromkeys(("int64", "sint64", "sfixed64"), (-(2**63), 2**63 - 1)),
    **dict.fromkeys(("uint64", "fixed64"), (0, 2**64 - 1)),
}
"""Type -> its smallest and its largest value."""

_TEXT = Path(__file__).with_name("pairs.txt")
_HEADS = {
    "proto2": 'syntax = "proto2";',
    "proto3": 'syntax = "proto3";',
    "2023": 'edition = "2023";',
}
_SERVICE = "service S { rpc Do(M) returns (M); }"
_MESSAGES = "message M { int32 a = 1; } message N { int32 a = 1; }"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions of a contract whose service is `<name>.S`, in the folder and package `name`."""

    name: str
    old: Mapping[str, str]
    """Texts by the names of files."""
    new: Mapping[str, str]
    relay: str
    """The rule of the relay's own that it breaks, where buf's rules for types let it pass."""
    near: frozenset[str] = frozenset()
    """Rules that it comes close to, and does not break."""


_Side = Mapping[str, str]


def _pair(name: str, syntax: str, old: _Side, new: _Side, relay: str, near: str = "") -> Pair:
    before, _, after = syntax.partition(">")
    sides = _files(name, before, old), _files(name, after or before, new)
    return Pair(name, *sides, relay, frozenset(near.split(",")) - {""})


def _files(name: str, syntax: str, side: _Side) -> dict[str, str]:
    """Return the texts by the names of files, from what pairs.txt says of them."""
    texts = {stem: _body(text) for stem, text in side.items()}
    if not any("service " in text for text in texts.values()):
        texts["a"] += f" {_SERVICE}"
    head = f"{_HEADS[syntax]} package {name}; "
    return {
        f"{name}/{stem}.proto": f"{'' if text.startswith('syntax') else head}{text}\n".replace(
            "$", name
        )
        for stem, text in texts.items()
    }


def _body(text: str) -> str:
    if text.startswith("rpc "):
        return f"{_MESSAGES} service S {{ {text} }}"
    if re.search(r"\b(message M|enum \w+|service \w+|message N) \{", text):
        return text
    return f"message M {{ {text} }}"


# --- pairs.txt ---


def _read(text: str) -> Iterator[Pair]:
    for block in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        name, *words = head.split()
        options = dict(word.split(":") for word in words if ":" in word)
        syntax = next((word for word in words if word.split(">")[0] in _HEADS), "proto3")
        sides: dict[str, dict[str, str]] = {"-": {}, "+": {}}
        for line in lines:
            if line[:1] in sides:
                stem, _, held = line[1:].partition(" ")
                sides[line[0]][stem or "a"] = held
        old, new = sides.values()
        yield _pair(name, syntax, old, new, options.get("breaks", ""), options.get("near", ""))
        if "both-ways" in words:
            back = ">".join(reversed(syntax.split(">")))
            yield _pair(f"{name}_back", back, new, old, options.get("back-breaks", ""))


# --- families ---

_TYPES = (*INTEGERS, "float", "double", "string", "bytes", "E", "N")
_OTHERS = "enum E { E_ZERO = 0; E_ONE = 1; } message N { int32 n = 1; }"
_CARDINALITIES = {
    "proto3": {
        "implicit": "{} a = 1;",
        "optional": "optional {} a = 1;",
        "repeated": "repeated {} a = 1;",
        "map": "map<int32, {}> a = 1;",
        "oneof": "oneof o {{ {} a = 1; }}",
    },
    "proto2": {
        "optional": "optional {} a = 1;",
        "required": "required {} a = 1;",
        "repeated": "repeated {} a = 1;",
    },
    "2023": {
        "implicit": "{} a = 1 [features.field_presence = IMPLICIT];",
        "explicit": "{} a = 1;",
        "required": "{} a = 1 [features.field_presence = LEGACY_REQUIRED];",
        "repeated": "repeated {} a = 1;",
    },
}
_SHAPES = {
    "unary": "rpc Do(M) returns (M);",
    "client": "rpc Do(stream M) returns (M);",
    "server": "rpc Do(M) returns (stream M);",
    "both": "rpc Do(stream M) returns (stream M);",
}
_IDEMPOTENCIES = {
    "unknown": "rpc Do(M) returns (M);",
    "idempotent": "rpc Do(M) returns (M) { option idempotency_level = IDEMPOTENT; }",
    "no_side_effects": "rpc Do(M) returns (M) { option idempotency_level = NO_SIDE_EFFECTS; }",
}


def _each_to_each() -> Iterator[Pair]:
    for old, new in itertools.product(_TYPES, repeat=2):
        before, after = ({"a": f"message M {{ {each} a = 1; }} {_OTHERS}"} for each in (old, new))
        name = f"type_{old}_to_{new}".lower()
        yield _pair(name, "proto3", before, after, _narrowing(old, new))
    for syntax, forms in _CARDINALITIES.items():
        for type_ in ("int32", "string", "M"):
            kinds = {kind: form.format(type_) for kind, form in forms.items()}
            if type_ == "M":
                kinds.pop("implicit", "")
            yield from _family(f"cardinality_{syntax}_{type_.lower()}", syntax, kinds)
    yield from _family("method_shape", "proto3", _SHAPES)
    yield from _family("method_idempotency", "proto3", _IDEMPOTENCIES)


def _narrowing(old: str, new: str) -> str:
    """Return the rule against it, where the new type lacks values that the old one has."""
    if not {old, new} <= INTEGERS.keys():
        return ""
    (old_min, old_max), (new_min, new_max) = INTEGERS[old], INTEGERS[new]
    return "FIELD_NO_NARROWING" if new_min > old_min or new_max < old_max else ""


def _family(name: str, syntax: str, forms: Mapping[str, str]) -> Iterator[Pair]:
    for old, new in itertools.permutations(forms, 2):
        yield _pair(f"{name}_{old}_to_{new}", syntax, {"a": forms[old]}, {"a": forms[new]}, "")


PAIRS: tuple[Pair, ...] = (*_each_to_each(), *_read(_TEXT.read_text(encoding="utf-8")))
