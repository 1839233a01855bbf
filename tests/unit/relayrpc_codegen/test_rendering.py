"""Text of modules. Goal: it is Python, whatever a contract has for names. Method: any names."""

from __future__ import annotations

import ast
import keyword
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.v1 import contract_pb2
from relayrpc_codegen.reading import FAULT_RESERVED, RESERVED, read_modules
from relayrpc_codegen.rendering import render


OPERATION: Final[Any] = contract_pb2.operation
NAMES = st.one_of(
    st.sampled_from([*keyword.kwlist, *sorted(RESERVED), "t_pb2", "self", "_a", "__init__"]),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,40}", fullmatch=True),
)
METHODS = st.lists(
    st.tuples(NAMES, st.booleans(), st.booleans(), st.booleans()),
    max_size=4,
    unique_by=lambda each: each[0],
)


@settings(max_examples=40)
@given(
    package=st.lists(NAMES, max_size=3),
    folder=st.lists(NAMES, max_size=2),
    message=NAMES,
    services=st.lists(
        st.tuples(NAMES, METHODS), min_size=1, max_size=3, unique_by=lambda each: each[0]
    ),
)
def test_module_is_python_with_a_class_for_everything(
    package: list[str],
    folder: list[str],
    message: str,
    services: list[tuple[str, list[tuple[str, bool, bool, bool]]]],
) -> None:
    file = FileDescriptorProto(
        name="/".join([*folder, "t.proto"]), package=".".join(package), syntax="proto3"
    )
    # What stands beside it in the file cannot have its name.
    message = f"{message}_M"
    file.message_type.add(name=message)
    full_name = "." + ".".join([*package, message])
    for name, methods in services:
        service = file.service.add(name=f"{name}_S")
        for method, is_deprecated, has_requests, has_responses in methods:
            made = service.method.add(
                name=method,
                input_type=full_name,
                output_type=full_name,
                client_streaming=has_requests,
                server_streaming=has_responses,
            )
            made.options.deprecated = is_deprecated
    (module,) = read_modules([file], [file.name])
    tree = ast.parse(render(module))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert len(classes) == 4 * len(services)
    for name, methods in services:
        for kind in ("Caller", "CallerSync", "Servicer", "ServicerSync"):
            inner = [
                node
                for node in classes[f"{name}_S{kind}"].body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            assert len({node.name for node in inner}) == len(methods)


CLASHES = ("code_", "_code", "__class__", "str", "t_pb2")
FIELDS = st.lists(
    st.one_of(
        st.sampled_from([*keyword.kwlist, *sorted(FAULT_RESERVED), *CLASHES]),
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,40}", fullmatch=True),
    ),
    max_size=6,
    unique=True,
)


@settings(max_examples=40)
@given(
    package=st.lists(NAMES, max_size=2),
    messages=st.dictionaries(NAMES, FIELDS, min_size=1, max_size=3),
)
def test_fault_is_a_class_whose_constructor_takes_every_field(
    package: list[str], messages: dict[str, list[str]]
) -> None:
    file = FileDescriptorProto(name="t.proto", package=".".join(package), syntax="proto2")
    file.dependency.append("relayrpc/v1/contract.proto")
    service = file.service.add(name="The_S")
    for name, fields in messages.items():
        message = file.message_type.add(name=f"{name}_M")
        for number, field in enumerate(fields, start=1):
            message.field.add(
                name=field,
                number=number,
                label=FieldDescriptorProto.LABEL_OPTIONAL,
                type=FieldDescriptorProto.TYPE_STRING,
                # Else two of them may have one.
                json_name=f"json{number}",
            )
        full_name = ".".join([*package, f"{name}_M"])
        made = service.method.add(
            name=f"Do{name}", input_type=f".{full_name}", output_type=f".{full_name}"
        )
        made.options.Extensions[OPERATION].faults.append(full_name)
    files = [FileDescriptorProto.FromString(each.serialized_pb) for each in _imports()]
    (module,) = read_modules([*files, file], [file.name])
    tree = ast.parse(render(module))
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Fault")
    ]
    assert len({node.name for node in classes}) == len(messages)
    for node, fields in zip(classes, messages.values(), strict=True):
        constructor = next(each for each in node.body if isinstance(each, ast.FunctionDef))
        taken = {argument.arg for argument in constructor.args.kwonlyargs}
        assert len(taken) == len(fields) + 2
        (given_fields,) = (each for each in ast.walk(constructor) if isinstance(each, ast.Dict))
        assert [ast.literal_eval(key) for key in given_fields.keys if key] == fields


def _imports() -> list[Any]:
    """The options' file, behind those that it imports."""
    options: Any = contract_pb2.DESCRIPTOR
    found: dict[str, Any] = {}
    waiting = [options]
    while waiting:
        each = waiting.pop()
        found[each.name] = each
        waiting += each.dependencies
    return list(found.values())[::-1]
