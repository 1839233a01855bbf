"""
Contracts and later versions of them, made at random: what a careless author could write.

A contract is a plan of plain values, so that whatever is changed in it still is one; `render` makes
a file of it that every compiler takes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
)


__all__ = ["ContractPlan", "change", "draw_contract", "render"]

_SYNTAXES = ("proto2", "proto3", "2023")
_SCALARS = (
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
    "sfixed64", "bool", "float", "double", "string", "bytes",
)  # fmt: skip
_INTEGERS = _SCALARS[:11]
_TYPES = (*_SCALARS, "E", "F", "N", "O", "N delimited")
_KEYS = ("int32", "uint32", "int64", "sint64", "fixed32", "bool", "string")
_KINDS = ("implicit", "optional", "required", "repeated", "map", "oneof o", "oneof p")
_NAMES = "abcdefgh"
_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "string": ("", "x", "y"),
    "bytes": ("", "x", "y"),
    "bool": ("false", "true"),
    "float": ("0", "0.1", "7", "inf"),
    "double": ("0", "0.1", "7", "inf"),
}
_EDITION_2023 = 1000
_HELD = {1: "E", 2: "F"}


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """What a field is, as far as its syntax lets it be that."""

    name: str
    type: str
    kind: str
    key: str = "int32"
    """Of a map."""
    default: int | None = None
    """Index of one of its type's; None: none is written."""
    json_name: str = ""


@dataclass(frozen=True, slots=True)
class MessagePlan:
    """What a message has and reserves."""

    fields: Mapping[int, FieldPlan]
    reserved_numbers: frozenset[int] = frozenset()
    reserved_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EnumPlan:
    """What an enum has and reserves."""

    values: tuple[tuple[int, str], ...]
    reserved_numbers: frozenset[int] = frozenset()
    reserved_names: frozenset[str] = frozenset()
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class ContractPlan:
    """A service S, whose method takes and gives an M; a message Holder has a field of each enum."""

    syntax: str
    messages: Mapping[str, MessagePlan]
    enums: Mapping[str, EnumPlan]
    shape: tuple[bool, bool] = (False, False)
    idempotency: int = 0
    extra: frozenset[str] = field(default_factory=frozenset)
    """Names of methods beside Do."""


# --- drawing and changing ---


def draw_contract(rng: random.Random) -> ContractPlan:
    """Draw a contract."""
    return ContractPlan(
        syntax=rng.choice(_SYNTAXES),
        messages={name: _draw_message(rng) for name in "MNO"},
        enums={name: _draw_enum(rng, name) for name in "EF"},
        extra=frozenset(rng.sample(["Go", "Stay"], rng.randint(0, 2))),
    )


def change(rng: random.Random, plan: ContractPlan) -> ContractPlan:
    """Make a later version: the same, but for a few changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if rng.random() < 0.7:
            name = rng.choice("MMMN")
            message = _change_message(rng, plan.messages[name])
            plan = replace(plan, messages={**plan.messages, name: message})
        elif rng.random() < 0.7:
            name = rng.choice("EF")
            enum = _change_enum(rng, name, plan.enums[name])
            plan = replace(plan, enums={**plan.enums, name: enum})
        else:
            plan = _change_rest(rng, plan)
    return plan


def _draw_message(rng: random.Random) -> MessagePlan:
    count = rng.randint(1, 5)
    names = rng.sample(_NAMES, count)
    numbers = rng.sample(range(1, 10), count)
    return MessagePlan(
        {number: _draw_field(rng, name) for number, name in zip(numbers, names, strict=True)},
        frozenset(rng.sample(range(10, 16), rng.randint(0, 3))),
        frozenset(rng.sample("xyz", rng.randint(0, 2))),
    )


def _draw_field(rng: random.Random, name: str) -> FieldPlan:
    return FieldPlan(
        name,
        rng.choice(_TYPES),
        rng.choice(_KINDS),
        key=rng.choice(_KEYS),
        default=rng.choice((None, None, 0, 1, 2)),
        json_name=rng.choice(("", "", f"{name}X")),
    )


def _draw_enum(rng: random.Random, name: str) -> EnumPlan:
    values = [(0, f"{name}_0")]
    values += [(number, f"{name}_{number}") for number in rng.sample(range(1, 6), 2)]
    if rng.random() < 0.3:
        values.append((values[-1][0], f"{name}_ALIAS"))
    return EnumPlan(
        tuple(values),
        frozenset(rng.sample(range(10, 16), rng.randint(0, 2))),
        frozenset(rng.sample([f"{name}_X", f"{name}_Y"], rng.randint(0, 2))),
        is_closed=rng.random() < 0.3,
    )


def _change_message(rng: random.Random, plan: MessagePlan) -> MessagePlan:
    fields = dict(plan.fields)
    number = rng.choice(list(fields))
    old = fields[number]
    free = [name for name in _NAMES if name not in {each.name for each in fields.values()}]
    match rng.randint(0, 9):
        case 0 | 1 | 2:
            types = _INTEGERS if old.type in _INTEGERS and rng.random() < 0.5 else _TYPES
            fields[number] = replace(old, type=rng.choice(types))
        case 3 | 4:
            fields[number] = replace(old, kind=rng.choice(_KINDS))
        case 5:
            fields[number] = replace(old, name=rng.choice(free))
        case 6:
            fields[number] = replace(
                old, json_name=rng.choice(("", f"{old.name}X", f"{old.name}Y"))
            )
        case 7:
            default, key = rng.choice((None, 0, 1, 2)), rng.choice(_KEYS)
            fields[number] = replace(old, default=default, key=key)
        case 8:
            return _delete_field(rng, plan, number)
        case 9:
            return replace(
                plan,
                reserved_numbers=plan.reserved_numbers ^ {rng.randint(10, 15)},
                reserved_names=plan.reserved_names ^ {rng.choice("xyz")},
            )
    if rng.random() < 0.2 and free:
        fields.setdefault(rng.randint(1, 9), _draw_field(rng, free[-1]))
    return _as_compilers_take_it(replace(plan, fields=fields))


def _delete_field(rng: random.Random, plan: MessagePlan, number: int) -> MessagePlan:
    if len(plan.fields) == 1:
        return plan
    numbers, names = plan.reserved_numbers, plan.reserved_names
    if rng.random() < 0.7:
        numbers |= {number}
    if rng.random() < 0.7:
        names |= {plan.fields[number].name}
    fields = {each: held for each, held in plan.fields.items() if each != number}
    return MessagePlan(fields, numbers, names)


def _as_compilers_take_it(plan: MessagePlan) -> MessagePlan:
    """Leave out fields whose names another one has, and reserve nothing that is used."""
    fields: dict[int, FieldPlan] = {}
    names: set[str] = set()
    for number, each in plan.fields.items():
        if not names & {each.name, each.json_name}:
            fields[number] = each
            names |= {each.name, each.json_name} - {""}
    return MessagePlan(fields, plan.reserved_numbers - fields.keys(), plan.reserved_names - names)


def _change_enum(rng: random.Random, name: str, plan: EnumPlan) -> EnumPlan:
    values = list(plan.values)
    index = rng.randrange(1, len(values)) if len(values) > 1 else 0
    number, old = values[index]
    match rng.randint(0, 5):
        case 0 if index:
            del values[index]
            numbers = plan.reserved_numbers | ({number} if rng.random() < 0.7 else set())
            names = plan.reserved_names | ({old} if rng.random() < 0.7 else set())
            plan = replace(plan, reserved_numbers=numbers, reserved_names=names)
        case 1:
            values.append((rng.randint(-2, 9), f"{name}_NEW"))
        case 2 if index:
            values[index] = (number, f"{name}_OTHER")
        case 3 if index:
            values[index] = (rng.randint(-2, 9), old)
        case 4:
            plan = replace(plan, is_closed=not plan.is_closed)
        case _:
            plan = replace(plan, reserved_numbers=plan.reserved_numbers ^ {rng.randint(10, 15)})
    unique = {each: number for number, each in reversed(values)}
    kept = tuple((number, each) for each, number in reversed(unique.items()))
    numbers_used = {number for number, _ in kept}
    return replace(
        plan,
        values=kept,
        reserved_numbers=plan.reserved_numbers - numbers_used,
        reserved_names=plan.reserved_names - unique.keys(),
    )


def _change_rest(rng: random.Random, plan: ContractPlan) -> ContractPlan:
    match rng.randint(0, 3):
        case 0:
            return replace(plan, syntax=rng.choice(_SYNTAXES))
        case 1:
            return replace(plan, shape=(rng.random() < 0.5, rng.random() < 0.5))
        case 2:
            return replace(plan, idempotency=rng.randint(0, 2))
        case _:
            return replace(plan, extra=plan.extra ^ {rng.choice(["Go", "Stay"])})


# --- rendering ---


def render(plan: ContractPlan, name: str) -> FileDescriptorProto:
    """Make the file of a contract; `name`: of its package, and of the file without its ending."""
    file = FileDescriptorProto(name=f"{name}.proto", package=name, syntax=plan.syntax)
    if plan.syntax == "2023":
        file.syntax, file.edition = "editions", _EDITION_2023
    for each, enum in plan.enums.items():
        file.enum_type.append(_render_enum(each, enum, plan.syntax))
    for each, message in plan.messages.items():
        file.message_type.append(_Message(plan, name, each).render(message))
    holder = {number: FieldPlan(f"in{each}", each, "repeated") for number, each in _HELD.items()}
    file.message_type.append(_Message(plan, name, "Holder").render(MessagePlan(holder)))
    service = file.service.add(name="S")
    for method in ("Do", *sorted(plan.extra)):
        made = service.method.add(name=method, input_type=f".{name}.M", output_type=f".{name}.M")
        made.client_streaming, made.server_streaming = plan.shape
        if plan.idempotency:
            made.options.idempotency_level = plan.idempotency
    return file


def _render_enum(name: str, plan: EnumPlan, syntax: str) -> EnumDescriptorProto:
    made = EnumDescriptorProto(name=name, reserved_name=sorted(plan.reserved_names))
    for number, each in plan.values:
        made.value.add(name=each, number=number)
    for number in sorted(plan.reserved_numbers):
        made.reserved_range.add(start=number, end=number)
    if len({number for number, _ in plan.values}) < len(plan.values):
        made.options.allow_alias = True
    if syntax == "2023" and plan.is_closed:
        made.options.features.enum_type = FeatureSet.CLOSED
    return made


class _Message:
    """A message on its way into a file."""

    def __init__(self, plan: ContractPlan, package: str, name: str) -> None:
        self._plan = plan
        self._package = package
        self._made = DescriptorProto(name=name)

    def render(self, plan: MessagePlan) -> DescriptorProto:
        kinds = {number: self._kind(each) for number, each in plan.fields.items()}
        oneofs = sorted({kind[-1] for kind in kinds.values() if kind.startswith("oneof")})
        self._made.oneof_decl.extend(_oneof(each) for each in oneofs)
        # The fields of a oneof stand together.
        for number, kind in sorted(kinds.items(), key=lambda item: (item[1], item[0])):
            made = self._made.field.add(number=number)
            self._render_field(made, plan.fields[number], kind)
            if kind.startswith("oneof"):
                made.oneof_index = oneofs.index(kind[-1])
        for made in self._made.field:
            if made.proto3_optional:
                made.oneof_index = len(self._made.oneof_decl)
                self._made.oneof_decl.append(_oneof(f"_{made.name}"))
        self._made.reserved_name.extend(sorted(plan.reserved_names))
        for number in sorted(plan.reserved_numbers):
            self._made.reserved_range.add(start=number, end=number + 1)
        return self._made

    def _kind(self, plan: FieldPlan) -> str:
        """Return what a field can be in its syntax."""
        syntax, kind = self._plan.syntax, plan.kind
        if kind == "required" and syntax == "proto3":
            return "optional"
        is_message = plan.type[0] in "NO"
        is_closed = plan.type in self._plan.enums and self._plan.enums[plan.type].is_closed
        if kind == "implicit" and (syntax == "proto2" or is_message or is_closed):
            return "optional"
        return kind

    def _render_field(self, made: FieldDescriptorProto, plan: FieldPlan, kind: str) -> None:
        made.name = plan.name
        # As compilers write it; these names are what they would make of them.
        made.json_name = plan.json_name or plan.name
        made.label = made.LABEL_REPEATED if kind in ("repeated", "map") else made.LABEL_OPTIONAL
        if kind == "map":
            self._render_map(made, plan)
            return
        self._set_type(made, plan.type)
        syntax = self._plan.syntax
        if plan.type == "N delimited" and syntax == "2023":
            made.options.features.message_encoding = FeatureSet.DELIMITED
        if kind == "required" and syntax == "proto2":
            made.label = made.LABEL_REQUIRED
        elif kind == "required":
            made.options.features.field_presence = FeatureSet.LEGACY_REQUIRED
        elif kind == "optional" and syntax == "proto3":
            made.proto3_optional = True
        elif kind == "implicit" and syntax == "2023":
            made.options.features.field_presence = FeatureSet.IMPLICIT
        has_presence = kind != "repeated" and syntax != "proto3" and kind != "implicit"
        if plan.default is not None and has_presence and plan.type[0] not in "NO":
            made.default_value = self._default(plan)

    def _default(self, plan: FieldPlan) -> str:
        assert plan.default is not None
        if plan.type in self._plan.enums:
            values = self._plan.enums[plan.type].values
            return values[plan.default % len(values)][1]
        known = _DEFAULTS.get(plan.type, ("0", "1", "7"))
        return known[plan.default % len(known)]

    def _render_map(self, made: FieldDescriptorProto, plan: FieldPlan) -> None:
        name = f"{plan.name.title()}Entry"
        entry = self._made.nested_type.add(name=name)
        entry.options.map_entry = True
        for number, (each, type_) in enumerate((("key", plan.key), ("value", plan.type)), start=1):
            part = entry.field.add(
                name=each, json_name=each, number=number, label=made.LABEL_OPTIONAL
            )
            self._set_type(part, type_)
        made.type = made.TYPE_MESSAGE
        made.type_name = f".{self._package}.{self._made.name}.{name}"

    def _set_type(self, made: FieldDescriptorProto, type_: str) -> None:
        if type_ in _SCALARS:
            made.type = FieldDescriptorProto.Type.Value(f"TYPE_{type_.upper()}")
            return
        made.type = made.TYPE_ENUM if type_ in self._plan.enums else made.TYPE_MESSAGE
        made.type_name = f".{self._package}.{type_[0]}"


def _oneof(name: str) -> object:
    return DescriptorProto().oneof_decl.add(name=name)
