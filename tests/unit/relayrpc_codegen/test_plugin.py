"""The plugin as compilers see it. Goal: a request has an answer. Method: requests made by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from relayrpc_codegen.compiling import compile_protos
from relayrpc_codegen.includes import Includes
from relayrpc_codegen.plugin import generate
from tests.support.contracts import make_file


OPTIONS = Path(__file__).parents[2] / "conformance" / "options"


def test_file_with_a_service_becomes_a_module() -> None:
    request = CodeGeneratorRequest(file_to_generate=["a/t.proto"])
    request.proto_file.append(make_file("a/t.proto"))
    response = generate(request)
    assert not response.error
    assert [file.name for file in response.file] == ["a/t_relay.py"]
    compile(response.file[0].content, "t_relay.py", "exec")


def test_only_what_is_asked_for_is_generated() -> None:
    request = CodeGeneratorRequest(file_to_generate=["b.proto"])
    request.proto_file.extend(
        [make_file("a.proto", package="a"), make_file("b.proto", package="b")]
    )
    assert [file.name for file in generate(request).file] == ["b_relay.py"]


def test_optional_fields_and_editions_are_supported() -> None:
    """Compilers refuse files with them otherwise."""
    response = generate(CodeGeneratorRequest())
    assert response.supported_features == (
        CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    assert response.minimum_edition <= Edition.EDITION_PROTO2
    assert response.maximum_edition >= Edition.EDITION_2023


def test_option_is_refused_as_there_are_none() -> None:
    response = generate(CodeGeneratorRequest(parameter="paths=source_relative"))
    assert response.error == (
        "protoc-gen-relayrpc takes no options, and was given 'paths=source_relative'"
    )


def test_plugin_run_by_hand_says_how_it_is_run() -> None:
    plugin = Path(sys.executable).with_name("protoc-gen-relayrpc")
    done = subprocess.run([plugin], input="nonsense", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr == (
        "protoc-gen-relayrpc is run by protoc, grpc_tools.protoc or buf; "
        "by hand it is `relayrpc codegen`\n"
    )


def answer(*names: str, folder: Path = OPTIONS) -> CodeGeneratorResponse:
    request = CodeGeneratorRequest(file_to_generate=names)
    includes = Includes([str(folder / name) for name in names], [str(folder)])
    request.proto_file.extend(compile_protos(includes).file)
    return generate(request)


def test_contradictions_are_said_with_file_line_and_reason() -> None:
    response = answer("refused/one_way.proto")
    assert not response.file
    lines = response.error.splitlines()
    assert len(lines) > 1
    assert all(line.startswith("refused/one_way.proto:") for line in lines)
    assert any("one_way" in line for line in lines)


def test_descriptors_that_cannot_be_used_are_said_to_be_so() -> None:
    file = make_file("a.proto", imports=["b.proto"])
    request = CodeGeneratorRequest(file_to_generate=["a.proto"], proto_file=[file])
    assert "'b.proto' is imported and missing" in generate(request).error


def test_name_that_would_be_text_of_the_program_is_refused() -> None:
    file = make_file("a.proto", methods=["a:\n import os"])
    request = CodeGeneratorRequest(file_to_generate=["a.proto"], proto_file=[file])
    response = generate(request)
    assert response.error
    assert not response.file
