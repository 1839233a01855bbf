from google.protobuf import empty_pb2 as _empty_pb2
from relayrpc.v1 import contract_pb2 as _contract_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class OpenRequest(_message.Message):
    __slots__ = ("customer",)
    CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    customer: str
    def __init__(self, customer: _Optional[str] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("greeting",)
    GREETING_FIELD_NUMBER: _ClassVar[int]
    greeting: str
    def __init__(self, greeting: _Optional[str] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("item", "count")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    item: str
    count: int
    def __init__(self, item: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("number", "item", "count")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    number: int
    item: str
    count: int
    def __init__(self, number: _Optional[int] = ..., item: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class OutOfStock(_message.Message):
    __slots__ = ("item", "count")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    item: str
    count: int
    def __init__(self, item: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Remark(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Invoice(_message.Message):
    __slots__ = ("count", "remarks")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    count: int
    remarks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, count: _Optional[int] = ..., remarks: _Optional[_Iterable[str]] = ...) -> None: ...

class ShippedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
