from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetDescriptorSetRequest(_message.Message):
    __slots__ = ("fingerprint",)
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    def __init__(self, fingerprint: _Optional[bytes] = ...) -> None: ...

class GetDescriptorSetResponse(_message.Message):
    __slots__ = ("descriptor_set",)
    DESCRIPTOR_SET_FIELD_NUMBER: _ClassVar[int]
    descriptor_set: bytes
    def __init__(self, descriptor_set: _Optional[bytes] = ...) -> None: ...
