"""
protoc-gen-relayrpc: typed callers, servicers and contract objects from .proto files.

Descriptors are read into a model (reading.py), the model is written as text (rendering.py);
plugin.py is what protoc, grpcio-tools and buf run. compiling.py and includes.py run protoc
themselves, for `relayrpc codegen`.
Source: docs/reference/codegen.md.
"""

from __future__ import annotations


__all__: list[str] = []
