"""
The command `protoc-gen-relayrpc`, which protoc, grpcio-tools and buf run: a request on standard
input, a response on standard output.

Owns: what a plugin is asked and answers. Does not own: what is generated (reading.py,
rendering.py).
Source: google/protobuf/compiler/plugin.proto.
"""

from __future__ import annotations

import sys
from typing import Final

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition
from google.protobuf.message import DecodeError

from relayrpc.errors import ContractError
from relayrpc_codegen.reading import read_modules
from relayrpc_codegen.rendering import render


__all__ = ["generate", "main"]

_FEATURES: Final = (
    CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
)


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Answer a request: a module for each file that has services, or what is wrong with one."""
    response = CodeGeneratorResponse(
        supported_features=_FEATURES,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=Edition.EDITION_2024,
    )
    if request.parameter:
        given = request.parameter
        response.error = f"protoc-gen-relayrpc takes no options, and was given {given!r}"
        return response
    try:
        for module in read_modules(request.proto_file, request.file_to_generate):
            response.file.add(name=module.path, content=render(module))
    except ContractError as error:
        del response.file[:]
        response.error = str(error)
    return response


def main() -> None:
    """Run the plugin."""
    data = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    try:
        request = CodeGeneratorRequest.FromString(data)
    except DecodeError:
        request = CodeGeneratorRequest()
    if not request.file_to_generate:
        sys.exit(
            "protoc-gen-relayrpc is run by protoc, grpc_tools.protoc or buf; "
            "by hand it is `relayrpc codegen`"
        )
    sys.stdout.buffer.write(generate(request).SerializeToString())
