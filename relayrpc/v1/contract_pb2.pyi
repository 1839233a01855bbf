import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
CONTRACT_FIELD_NUMBER: _ClassVar[int]
contract: _descriptor.FieldDescriptor
OPERATION_FIELD_NUMBER: _ClassVar[int]
operation: _descriptor.FieldDescriptor

class Contract(_message.Message):
    __slots__ = ("address", "session", "callback", "default_timeout", "maximum_timeout", "scopes")
    class SessionMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ALLOWED: _ClassVar[Contract.SessionMode]
        REQUIRED: _ClassVar[Contract.SessionMode]
        NOT_ALLOWED: _ClassVar[Contract.SessionMode]
    ALLOWED: Contract.SessionMode
    REQUIRED: Contract.SessionMode
    NOT_ALLOWED: Contract.SessionMode
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CALLBACK_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    address: str
    session: Contract.SessionMode
    callback: str
    default_timeout: _duration_pb2.Duration
    maximum_timeout: _duration_pb2.Duration
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, address: _Optional[str] = ..., session: _Optional[_Union[Contract.SessionMode, str]] = ..., callback: _Optional[str] = ..., default_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., maximum_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., scopes: _Optional[_Iterable[str]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("one_way", "initiating", "terminating", "faults", "default_timeout", "maximum_timeout", "scopes", "sticky_key", "event")
    ONE_WAY_FIELD_NUMBER: _ClassVar[int]
    INITIATING_FIELD_NUMBER: _ClassVar[int]
    TERMINATING_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    STICKY_KEY_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    one_way: bool
    initiating: bool
    terminating: bool
    faults: _containers.RepeatedScalarFieldContainer[str]
    default_timeout: _duration_pb2.Duration
    maximum_timeout: _duration_pb2.Duration
    scopes: _containers.RepeatedScalarFieldContainer[str]
    sticky_key: str
    event: bool
    def __init__(self, one_way: _Optional[bool] = ..., initiating: _Optional[bool] = ..., terminating: _Optional[bool] = ..., faults: _Optional[_Iterable[str]] = ..., default_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., maximum_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., scopes: _Optional[_Iterable[str]] = ..., sticky_key: _Optional[str] = ..., event: _Optional[bool] = ...) -> None: ...
