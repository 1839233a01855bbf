from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Shape(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHAPE_UNKNOWN: _ClassVar[Shape]
    SHAPE_UNARY_UNARY: _ClassVar[Shape]
    SHAPE_UNARY_STREAM: _ClassVar[Shape]
    SHAPE_STREAM_UNARY: _ClassVar[Shape]
    SHAPE_STREAM_STREAM: _ClassVar[Shape]
SHAPE_UNKNOWN: Shape
SHAPE_UNARY_UNARY: Shape
SHAPE_UNARY_STREAM: Shape
SHAPE_STREAM_UNARY: Shape
SHAPE_STREAM_STREAM: Shape

class Batch(_message.Message):
    __slots__ = ("number", "ack", "age_ms", "frames")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    number: int
    ack: int
    age_ms: int
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, number: _Optional[int] = ..., ack: _Optional[int] = ..., age_ms: _Optional[int] = ..., frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("call_id", "open", "begin", "data", "grant", "half_close", "cancel", "end", "name", "announce", "announced", "withdraw", "going_away", "hello", "welcome", "resume", "expired", "ping", "pong", "close")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    HALF_CLOSE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    GOING_AWAY_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    open: Open
    begin: Begin
    data: bytes
    grant: int
    half_close: bool
    cancel: Cancel
    end: End
    name: Name
    announce: Announce
    announced: Announced
    withdraw: Withdraw
    going_away: GoingAway
    hello: Hello
    welcome: Welcome
    resume: Resume
    expired: Expired
    ping: int
    pong: int
    close: Close
    def __init__(self, call_id: _Optional[int] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., data: _Optional[bytes] = ..., grant: _Optional[int] = ..., half_close: _Optional[bool] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., name: _Optional[_Union[Name, _Mapping]] = ..., announce: _Optional[_Union[Announce, _Mapping]] = ..., announced: _Optional[_Union[Announced, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., going_away: _Optional[_Union[GoingAway, _Mapping]] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., expired: _Optional[_Union[Expired, _Mapping]] = ..., ping: _Optional[int] = ..., pong: _Optional[int] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class Name(_message.Message):
    __slots__ = ("number", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    text: str
    def __init__(self, number: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Metadatum(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("method", "method_text", "address", "address_text", "shape", "time_left_us", "data", "half_close", "credit_bytes", "metadata", "order_key", "wait_for_ready", "caller_identity", "caller_peer", "instance", "sticky_key", "dedupe_key", "is_repeat", "anchor", "one_way")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_TEXT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_TEXT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_US_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HALF_CLOSE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ORDER_KEY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_READY_FIELD_NUMBER: _ClassVar[int]
    CALLER_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CALLER_PEER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    STICKY_KEY_FIELD_NUMBER: _ClassVar[int]
    DEDUPE_KEY_FIELD_NUMBER: _ClassVar[int]
    IS_REPEAT_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    ONE_WAY_FIELD_NUMBER: _ClassVar[int]
    method: int
    method_text: str
    address: int
    address_text: str
    shape: Shape
    time_left_us: int
    data: bytes
    half_close: bool
    credit_bytes: int
    metadata: _containers.RepeatedCompositeFieldContainer[Metadatum]
    order_key: str
    wait_for_ready: bool
    caller_identity: str
    caller_peer: str
    instance: str
    sticky_key: str
    dedupe_key: str
    is_repeat: bool
    anchor: int
    one_way: bool
    def __init__(self, method: _Optional[int] = ..., method_text: _Optional[str] = ..., address: _Optional[int] = ..., address_text: _Optional[str] = ..., shape: _Optional[_Union[Shape, str]] = ..., time_left_us: _Optional[int] = ..., data: _Optional[bytes] = ..., half_close: _Optional[bool] = ..., credit_bytes: _Optional[int] = ..., metadata: _Optional[_Iterable[_Union[Metadatum, _Mapping]]] = ..., order_key: _Optional[str] = ..., wait_for_ready: _Optional[bool] = ..., caller_identity: _Optional[str] = ..., caller_peer: _Optional[str] = ..., instance: _Optional[str] = ..., sticky_key: _Optional[str] = ..., dedupe_key: _Optional[str] = ..., is_repeat: _Optional[bool] = ..., anchor: _Optional[int] = ..., one_way: _Optional[bool] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("metadata", "instance", "remembers")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REMEMBERS_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.RepeatedCompositeFieldContainer[Metadatum]
    instance: str
    remembers: bool
    def __init__(self, metadata: _Optional[_Iterable[_Union[Metadatum, _Mapping]]] = ..., instance: _Optional[str] = ..., remembers: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("reason",)
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Cancel.Reason]
        REASON_CANCELLED: _ClassVar[Cancel.Reason]
        REASON_DEADLINE: _ClassVar[Cancel.Reason]
        REASON_CALLER_LOST: _ClassVar[Cancel.Reason]
    REASON_UNSPECIFIED: Cancel.Reason
    REASON_CANCELLED: Cancel.Reason
    REASON_DEADLINE: Cancel.Reason
    REASON_CALLER_LOST: Cancel.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: Cancel.Reason
    def __init__(self, reason: _Optional[_Union[Cancel.Reason, str]] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("status", "details", "data", "initial_metadata", "trailing_metadata", "origin", "not_executed")
    class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORIGIN_HOST: _ClassVar[End.Origin]
        ORIGIN_HUB: _ClassVar[End.Origin]
        ORIGIN_CALLER: _ClassVar[End.Origin]
    ORIGIN_HOST: End.Origin
    ORIGIN_HUB: End.Origin
    ORIGIN_CALLER: End.Origin
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    INITIAL_METADATA_FIELD_NUMBER: _ClassVar[int]
    TRAILING_METADATA_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    NOT_EXECUTED_FIELD_NUMBER: _ClassVar[int]
    status: int
    details: str
    data: bytes
    initial_metadata: _containers.RepeatedCompositeFieldContainer[Metadatum]
    trailing_metadata: _containers.RepeatedCompositeFieldContainer[Metadatum]
    origin: End.Origin
    not_executed: bool
    def __init__(self, status: _Optional[int] = ..., details: _Optional[str] = ..., data: _Optional[bytes] = ..., initial_metadata: _Optional[_Iterable[_Union[Metadatum, _Mapping]]] = ..., trailing_metadata: _Optional[_Iterable[_Union[Metadatum, _Mapping]]] = ..., origin: _Optional[_Union[End.Origin, str]] = ..., not_executed: _Optional[bool] = ...) -> None: ...

class Method(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: Shape
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Union[Shape, str]] = ...) -> None: ...

class ServiceDescription(_message.Message):
    __slots__ = ("name", "methods", "fingerprint", "default_address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    methods: _containers.RepeatedCompositeFieldContainer[Method]
    fingerprint: bytes
    default_address: str
    def __init__(self, name: _Optional[str] = ..., methods: _Optional[_Iterable[_Union[Method, _Mapping]]] = ..., fingerprint: _Optional[bytes] = ..., default_address: _Optional[str] = ...) -> None: ...

class Announce(_message.Message):
    __slots__ = ("id", "address", "services", "slots", "priority", "labels", "was_accepted")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WAS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    id: int
    address: str
    services: _containers.RepeatedCompositeFieldContainer[ServiceDescription]
    slots: int
    priority: int
    labels: _containers.ScalarMap[str, str]
    was_accepted: bool
    def __init__(self, id: _Optional[int] = ..., address: _Optional[str] = ..., services: _Optional[_Iterable[_Union[ServiceDescription, _Mapping]]] = ..., slots: _Optional[int] = ..., priority: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., was_accepted: _Optional[bool] = ...) -> None: ...

class Announced(_message.Message):
    __slots__ = ("id", "status", "details")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    id: int
    status: int
    details: str
    def __init__(self, id: _Optional[int] = ..., status: _Optional[int] = ..., details: _Optional[str] = ...) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class GoingAway(_message.Message):
    __slots__ = ("time_left_ms", "reason")
    TIME_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    time_left_ms: int
    reason: str
    def __init__(self, time_left_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("versions", "features", "instance", "limits", "agent")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    instance: str
    limits: LinkLimits
    agent: str
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[str]] = ..., instance: _Optional[str] = ..., limits: _Optional[_Union[LinkLimits, _Mapping]] = ..., agent: _Optional[str] = ...) -> None: ...

class LinkLimits(_message.Message):
    __slots__ = ("batch_bytes_max", "initial_credit_bytes", "calls_open_max", "keepalive_interval_ms")
    BATCH_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    INITIAL_CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CALLS_OPEN_MAX_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    batch_bytes_max: int
    initial_credit_bytes: int
    calls_open_max: int
    keepalive_interval_ms: int
    def __init__(self, batch_bytes_max: _Optional[int] = ..., initial_credit_bytes: _Optional[int] = ..., calls_open_max: _Optional[int] = ..., keepalive_interval_ms: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "features", "link_id", "secret", "epoch", "limits", "resume_window_ms", "websocket_url", "received", "agent")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LINK_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    RESUME_WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    WEBSOCKET_URL_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    version: int
    features: _containers.RepeatedScalarFieldContainer[str]
    link_id: bytes
    secret: bytes
    epoch: bytes
    limits: LinkLimits
    resume_window_ms: int
    websocket_url: str
    received: int
    agent: str
    def __init__(self, version: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., link_id: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., epoch: _Optional[bytes] = ..., limits: _Optional[_Union[LinkLimits, _Mapping]] = ..., resume_window_ms: _Optional[int] = ..., websocket_url: _Optional[str] = ..., received: _Optional[int] = ..., agent: _Optional[str] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("link_id", "secret", "epoch", "attempt", "received", "instance", "is_move")
    LINK_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    IS_MOVE_FIELD_NUMBER: _ClassVar[int]
    link_id: bytes
    secret: bytes
    epoch: bytes
    attempt: int
    received: int
    instance: str
    is_move: bool
    def __init__(self, link_id: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., epoch: _Optional[bytes] = ..., attempt: _Optional[int] = ..., received: _Optional[int] = ..., instance: _Optional[str] = ..., is_move: _Optional[bool] = ...) -> None: ...

class Expired(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("code", "reason")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Close.Code]
        CODE_PROTOCOL_ERROR: _ClassVar[Close.Code]
        CODE_REPLACED: _ClassVar[Close.Code]
        CODE_LIMIT: _ClassVar[Close.Code]
        CODE_VERSION: _ClassVar[Close.Code]
        CODE_REFUSED: _ClassVar[Close.Code]
        CODE_SHUTDOWN: _ClassVar[Close.Code]
    CODE_UNSPECIFIED: Close.Code
    CODE_PROTOCOL_ERROR: Close.Code
    CODE_REPLACED: Close.Code
    CODE_LIMIT: Close.Code
    CODE_VERSION: Close.Code
    CODE_REFUSED: Close.Code
    CODE_SHUTDOWN: Close.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: Close.Code
    reason: str
    def __init__(self, code: _Optional[_Union[Close.Code, str]] = ..., reason: _Optional[str] = ...) -> None: ...
