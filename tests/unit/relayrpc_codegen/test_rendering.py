"""Text of modules. Goal: it is Python, whatever a contract has for names. Method: any names."""

from __future__ import annotations

import ast
import keyword

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc_codegen.reading import RESERVED, read_modules
from relayrpc_codegen.rendering import render


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
