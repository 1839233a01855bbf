from relayrpc.v1 import link_pb2 as _link_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINK_STATE_UNSPECIFIED: _ClassVar[LinkState]
    LINK_STATE_OPEN: _ClassVar[LinkState]
    LINK_STATE_PARKED: _ClassVar[LinkState]
    LINK_STATE_LEAVING: _ClassVar[LinkState]

class HostState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOST_STATE_UNSPECIFIED: _ClassVar[HostState]
    HOST_STATE_SERVING: _ClassVar[HostState]
    HOST_STATE_PARKED: _ClassVar[HostState]
    HOST_STATE_DRAINED: _ClassVar[HostState]
    HOST_STATE_LEAVING: _ClassVar[HostState]

class ContractVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTRACT_VERDICT_UNSPECIFIED: _ClassVar[ContractVerdict]
    CONTRACT_VERDICT_ACCEPTED: _ClassVar[ContractVerdict]
    CONTRACT_VERDICT_NOT_COMPARED: _ClassVar[ContractVerdict]
    CONTRACT_VERDICT_REFUSED: _ClassVar[ContractVerdict]
LINK_STATE_UNSPECIFIED: LinkState
LINK_STATE_OPEN: LinkState
LINK_STATE_PARKED: LinkState
LINK_STATE_LEAVING: LinkState
HOST_STATE_UNSPECIFIED: HostState
HOST_STATE_SERVING: HostState
HOST_STATE_PARKED: HostState
HOST_STATE_DRAINED: HostState
HOST_STATE_LEAVING: HostState
CONTRACT_VERDICT_UNSPECIFIED: ContractVerdict
CONTRACT_VERDICT_ACCEPTED: ContractVerdict
CONTRACT_VERDICT_NOT_COMPARED: ContractVerdict
CONTRACT_VERDICT_REFUSED: ContractVerdict

class ListRequest(_message.Message):
    __slots__ = ("address", "service", "fingerprint", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    address: str
    service: str
    fingerprint: bytes
    labels: _containers.ScalarMap[str, str]
    def __init__(self, address: _Optional[str] = ..., service: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("hub", "links", "hosts")
    HUB_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    hub: HubInfo
    links: _containers.RepeatedCompositeFieldContainer[LinkInfo]
    hosts: _containers.RepeatedCompositeFieldContainer[HostInfo]
    def __init__(self, hub: _Optional[_Union[HubInfo, _Mapping]] = ..., links: _Optional[_Iterable[_Union[LinkInfo, _Mapping]]] = ..., hosts: _Optional[_Iterable[_Union[HostInfo, _Mapping]]] = ...) -> None: ...

class HubInfo(_message.Message):
    __slots__ = ("epoch", "version", "links_count", "hosts_count", "calls_open_count", "calls_waiting_count", "uptime_ms")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LINKS_COUNT_FIELD_NUMBER: _ClassVar[int]
    HOSTS_COUNT_FIELD_NUMBER: _ClassVar[int]
    CALLS_OPEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CALLS_WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    version: str
    links_count: int
    hosts_count: int
    calls_open_count: int
    calls_waiting_count: int
    uptime_ms: int
    def __init__(self, epoch: _Optional[str] = ..., version: _Optional[str] = ..., links_count: _Optional[int] = ..., hosts_count: _Optional[int] = ..., calls_open_count: _Optional[int] = ..., calls_waiting_count: _Optional[int] = ..., uptime_ms: _Optional[int] = ...) -> None: ...

class LinkInfo(_message.Message):
    __slots__ = ("link_id", "instance", "identity", "peer", "state", "carrier", "round_trip_us", "resumes_count", "wire_version", "agent", "calls_open_count", "held_bytes", "is_local")
    LINK_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_US_FIELD_NUMBER: _ClassVar[int]
    RESUMES_COUNT_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CALLS_OPEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_LOCAL_FIELD_NUMBER: _ClassVar[int]
    link_id: str
    instance: str
    identity: str
    peer: str
    state: LinkState
    carrier: str
    round_trip_us: int
    resumes_count: int
    wire_version: int
    agent: str
    calls_open_count: int
    held_bytes: int
    is_local: bool
    def __init__(self, link_id: _Optional[str] = ..., instance: _Optional[str] = ..., identity: _Optional[str] = ..., peer: _Optional[str] = ..., state: _Optional[_Union[LinkState, str]] = ..., carrier: _Optional[str] = ..., round_trip_us: _Optional[int] = ..., resumes_count: _Optional[int] = ..., wire_version: _Optional[int] = ..., agent: _Optional[str] = ..., calls_open_count: _Optional[int] = ..., held_bytes: _Optional[int] = ..., is_local: _Optional[bool] = ...) -> None: ...

class HostInfo(_message.Message):
    __slots__ = ("link_id", "announcement_id", "instance", "address", "services", "state", "slots", "priority", "calls_open_count", "is_local", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LINK_ID_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENT_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CALLS_OPEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    IS_LOCAL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    link_id: str
    announcement_id: int
    instance: str
    address: str
    services: _containers.RepeatedCompositeFieldContainer[_link_pb2.ServiceDescription]
    state: HostState
    slots: int
    priority: int
    calls_open_count: int
    is_local: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, link_id: _Optional[str] = ..., announcement_id: _Optional[int] = ..., instance: _Optional[str] = ..., address: _Optional[str] = ..., services: _Optional[_Iterable[_Union[_link_pb2.ServiceDescription, _Mapping]]] = ..., state: _Optional[_Union[HostState, str]] = ..., slots: _Optional[int] = ..., priority: _Optional[int] = ..., calls_open_count: _Optional[int] = ..., is_local: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("epoch", "after_number", "only")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ONLY_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    after_number: int
    only: ListRequest
    def __init__(self, epoch: _Optional[str] = ..., after_number: _Optional[int] = ..., only: _Optional[_Union[ListRequest, _Mapping]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("epoch", "number", "snapshot", "events")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    number: int
    snapshot: HostSnapshot
    events: _containers.RepeatedCompositeFieldContainer[HostEvent]
    def __init__(self, epoch: _Optional[str] = ..., number: _Optional[int] = ..., snapshot: _Optional[_Union[HostSnapshot, _Mapping]] = ..., events: _Optional[_Iterable[_Union[HostEvent, _Mapping]]] = ...) -> None: ...

class HostSnapshot(_message.Message):
    __slots__ = ("is_first", "is_last", "hosts")
    IS_FIRST_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    is_first: bool
    is_last: bool
    hosts: _containers.RepeatedCompositeFieldContainer[HostInfo]
    def __init__(self, is_first: _Optional[bool] = ..., is_last: _Optional[bool] = ..., hosts: _Optional[_Iterable[_Union[HostInfo, _Mapping]]] = ...) -> None: ...

class HostEvent(_message.Message):
    __slots__ = ("number", "kind", "time_unix_ms", "host")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[HostEvent.Kind]
        KIND_CAME: _ClassVar[HostEvent.Kind]
        KIND_WENT: _ClassVar[HostEvent.Kind]
        KIND_PARKED: _ClassVar[HostEvent.Kind]
        KIND_RETURNED: _ClassVar[HostEvent.Kind]
        KIND_DRAINED: _ClassVar[HostEvent.Kind]
        KIND_UNDRAINED: _ClassVar[HostEvent.Kind]
        KIND_LEAVING: _ClassVar[HostEvent.Kind]
    KIND_UNSPECIFIED: HostEvent.Kind
    KIND_CAME: HostEvent.Kind
    KIND_WENT: HostEvent.Kind
    KIND_PARKED: HostEvent.Kind
    KIND_RETURNED: HostEvent.Kind
    KIND_DRAINED: HostEvent.Kind
    KIND_UNDRAINED: HostEvent.Kind
    KIND_LEAVING: HostEvent.Kind
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: HostEvent.Kind
    time_unix_ms: int
    host: HostInfo
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[_Union[HostEvent.Kind, str]] = ..., time_unix_ms: _Optional[int] = ..., host: _Optional[_Union[HostInfo, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("instance", "address", "undo")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    instance: str
    address: str
    undo: bool
    def __init__(self, instance: _Optional[str] = ..., address: _Optional[str] = ..., undo: _Optional[bool] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("hosts",)
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    hosts: _containers.RepeatedCompositeFieldContainer[HostInfo]
    def __init__(self, hosts: _Optional[_Iterable[_Union[HostInfo, _Mapping]]] = ...) -> None: ...

class EndLinkRequest(_message.Message):
    __slots__ = ("link_id", "reason")
    LINK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    link_id: str
    reason: str
    def __init__(self, link_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class EndLinkResponse(_message.Message):
    __slots__ = ("calls_ended_count",)
    CALLS_ENDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    calls_ended_count: int
    def __init__(self, calls_ended_count: _Optional[int] = ...) -> None: ...

class GetContractRequest(_message.Message):
    __slots__ = ("address", "service", "fingerprint")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    address: str
    service: str
    fingerprint: bytes
    def __init__(self, address: _Optional[str] = ..., service: _Optional[str] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...

class GetContractResponse(_message.Message):
    __slots__ = ("fingerprint", "descriptor_set")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_SET_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    descriptor_set: bytes
    def __init__(self, fingerprint: _Optional[bytes] = ..., descriptor_set: _Optional[bytes] = ...) -> None: ...

class ListContractsRequest(_message.Message):
    __slots__ = ("address", "service")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    address: str
    service: str
    def __init__(self, address: _Optional[str] = ..., service: _Optional[str] = ...) -> None: ...

class ListContractsResponse(_message.Message):
    __slots__ = ("contracts",)
    CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    contracts: _containers.RepeatedCompositeFieldContainer[ContractHistory]
    def __init__(self, contracts: _Optional[_Iterable[_Union[ContractHistory, _Mapping]]] = ...) -> None: ...

class CheckContractRequest(_message.Message):
    __slots__ = ("address", "service", "fingerprint", "descriptor_set")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_SET_FIELD_NUMBER: _ClassVar[int]
    address: str
    service: str
    fingerprint: bytes
    descriptor_set: bytes
    def __init__(self, address: _Optional[str] = ..., service: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., descriptor_set: _Optional[bytes] = ...) -> None: ...

class CheckContractResponse(_message.Message):
    __slots__ = ("answer", "fingerprint", "differences")
    class Answer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ANSWER_UNSPECIFIED: _ClassVar[CheckContractResponse.Answer]
        ANSWER_SAME: _ClassVar[CheckContractResponse.Answer]
        ANSWER_COMPATIBLE: _ClassVar[CheckContractResponse.Answer]
        ANSWER_INCOMPATIBLE: _ClassVar[CheckContractResponse.Answer]
        ANSWER_SEND_DESCRIPTORS: _ClassVar[CheckContractResponse.Answer]
        ANSWER_NO_HOST: _ClassVar[CheckContractResponse.Answer]
        ANSWER_NO_CONTRACT: _ClassVar[CheckContractResponse.Answer]
    ANSWER_UNSPECIFIED: CheckContractResponse.Answer
    ANSWER_SAME: CheckContractResponse.Answer
    ANSWER_COMPATIBLE: CheckContractResponse.Answer
    ANSWER_INCOMPATIBLE: CheckContractResponse.Answer
    ANSWER_SEND_DESCRIPTORS: CheckContractResponse.Answer
    ANSWER_NO_HOST: CheckContractResponse.Answer
    ANSWER_NO_CONTRACT: CheckContractResponse.Answer
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    answer: CheckContractResponse.Answer
    fingerprint: bytes
    differences: _containers.RepeatedCompositeFieldContainer[ContractDifference]
    def __init__(self, answer: _Optional[_Union[CheckContractResponse.Answer, str]] = ..., fingerprint: _Optional[bytes] = ..., differences: _Optional[_Iterable[_Union[ContractDifference, _Mapping]]] = ...) -> None: ...

class ContractDifference(_message.Message):
    __slots__ = ("rule", "element", "file", "text")
    RULE_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    rule: str
    element: str
    file: str
    text: str
    def __init__(self, rule: _Optional[str] = ..., element: _Optional[str] = ..., file: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ContractHistory(_message.Message):
    __slots__ = ("address", "service", "versions")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    address: str
    service: str
    versions: _containers.RepeatedCompositeFieldContainer[ContractVersion]
    def __init__(self, address: _Optional[str] = ..., service: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ContractVersion, _Mapping]]] = ...) -> None: ...

class ContractVersion(_message.Message):
    __slots__ = ("fingerprint", "verdict", "level", "details", "first_seen_unix_ms", "last_seen_unix_ms", "instance", "descriptor_set_bytes", "hosts_count")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_SET_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOSTS_COUNT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    verdict: ContractVerdict
    level: str
    details: str
    first_seen_unix_ms: int
    last_seen_unix_ms: int
    instance: str
    descriptor_set_bytes: int
    hosts_count: int
    def __init__(self, fingerprint: _Optional[bytes] = ..., verdict: _Optional[_Union[ContractVerdict, str]] = ..., level: _Optional[str] = ..., details: _Optional[str] = ..., first_seen_unix_ms: _Optional[int] = ..., last_seen_unix_ms: _Optional[int] = ..., instance: _Optional[str] = ..., descriptor_set_bytes: _Optional[int] = ..., hosts_count: _Optional[int] = ...) -> None: ...
