"""
What one generated module says, with every name as Python has it. Pure data.

Owns: what is known between reading descriptors and writing text. Does not own: either of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


__all__ = ["ANY_MESSAGE", "Fault", "Field", "Import", "Method", "Module", "Service"]

ANY_MESSAGE: Final = "typed.Message"
"""Annotation of a message that no program can name: one called `class`, or of a package `a.def`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One module of generated messages."""

    module: str
    """As it is imported, "contoso.orders.v1.orders_pb2"."""
    alias: str
    """What the generated module calls it."""
    has_statement: bool
    """Whether an import statement can name it; not where a part is a keyword, as in "a.class"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a service."""

    name: str
    """As the .proto file has it."""
    python_name: str
    """What it is called in generated classes: the name, where Python takes it."""
    comment: str
    """The comment before it, lines without their margin; empty: none."""
    is_deprecated: bool
    request: str
    """An annotation: "orders_pb2.Order"."""
    response: str
    has_request_stream: bool
    has_response_stream: bool
    is_one_way: bool
    default_timeout_s: float | None
    """Of calls whose caller says nothing; None: they have no deadline."""

    @property
    def shape(self) -> str:
        """As grpc's channels name it: "unary_stream"."""
        words = {False: "unary", True: "stream"}
        return f"{words[self.has_request_stream]}_{words[self.has_response_stream]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of a file."""

    name: str
    full_name: str
    """With its package: "contoso.orders.v1.Orders"."""
    comment: str
    is_deprecated: bool
    has_sessions_only: bool
    """Its contract's session is REQUIRED."""
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a fault's message."""

    name: str
    """As the .proto file has it."""
    python_name: str
    """What the constructor of the class calls it."""
    annotation: str
    """Of what is set: "Iterable[str]"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One message that operations of a file declare as a fault."""

    name: str
    """Of the class: "OutOfStockFault"."""
    full_name: str
    """Of the message."""
    comment: str
    """Of the message, where it is in the same file."""
    message: str
    """An annotation; ANY_MESSAGE where there is no other."""
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What is generated from one file that has services."""

    proto: str
    """The file's name as protoc has it."""
    path: str
    """Where the text goes: "contoso/orders/v1/orders_relay.py"."""
    own: Import
    """The file's own messages, and its descriptor."""
    imports: tuple[Import, ...]
    """All that is imported, `own` too, in the order of the statements."""
    faults: tuple[Fault, ...]
    """In the order in which the file first names them."""
    services: tuple[Service, ...]
