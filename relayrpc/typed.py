"""
What generated modules (`<name>_relay.py`) stand on: contracts, the types of calls, and the joints
to any grpc channel or server, a relay's or grpcio's own.

Programs need names from here only to annotate. Those that end in `Sync` block, the others are for
an event loop.
Source: docs/reference/codegen.md; grpc.aio's and grpc's calls.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
)

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.contract import Contract
from relayrpc.endpoint.channel import Channel as RelayChannel
from relayrpc.endpoint.context import Context as ServicerContext
from relayrpc.endpoint.faults import Fault
from relayrpc.endpoint.handlers import SHAPES
from relayrpc.endpoint.session import Session
from relayrpc.endpoint.sync_channel import LinkedChannel as RelayChannelSync
from relayrpc.endpoint.sync_context import SyncContext as ServicerContextSync
from relayrpc.endpoint.sync_session import Session as SessionSync
from relayrpc.errors import UsageError


__all__ = [
    "Callback",
    "CallerBase",
    "CallerBaseSync",
    "Channel",
    "ChannelSync",
    "Confirm",
    "Contract",
    "EOFType",
    "Fault",
    "Handlers",
    "Message",
    "Metadata",
    "RelayChannel",
    "RelayChannelSync",
    "Requests",
    "RequestsSync",
    "Server",
    "ServerSync",
    "ServicerContext",
    "ServicerContextSync",
    "Session",
    "SessionBase",
    "SessionBaseSync",
    "SessionSync",
    "StatusCode",
    "StreamCallSync",
    "StreamStreamCall",
    "StreamUnaryCall",
    "UnaryStreamCall",
    "UnaryUnaryCall",
    "add_to_server",
    "confirmed",
    "message_class",
]

_Request = TypeVar("_Request")
_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Servicer = TypeVar("_Servicer")
_Response_co = TypeVar("_Response_co", covariant=True)

# grpcio ships no types; to a checker these are what types-grpcio says, or Any where that is not
# installed.
Channel: TypeAlias = grpc.aio.Channel
ChannelSync: TypeAlias = grpc.Channel
StatusCode: TypeAlias = grpc.StatusCode
Server: TypeAlias = grpc.aio.Server
ServerSync: TypeAlias = grpc.Server
if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    class EOFType:
        """What `read()` gives behind the last message: `grpc.aio.EOF`."""
else:
    EOFType = type(grpc.aio.EOF)

Metadata: TypeAlias = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]
"""What a call takes as its metadata."""
Requests: TypeAlias = AsyncIterable[_Request] | Iterable[_Request] | None
"""What a call with a request stream takes; given None, its `write` and `done_writing` are used."""
RequestsSync: TypeAlias = Iterable[_Request]
Handlers: TypeAlias = Mapping[str, Callable[..., Any]]
"""Name of each method, as the .proto file has it -> what answers."""
Confirm: TypeAlias = Literal["hub", "host"]
"""When a call of a one-way method is over: the hub holds it, or the handler has returned."""


class Callback(NamedTuple, Generic[_Servicer]):
    """One of a channel's `callbacks`; the pair itself will do, and then nothing checks it."""

    add_to_server: Callable[[_Servicer, Any], None]
    """`add_OrderEventsServicer_to_server`."""
    servicer: _Servicer


# --- calls for an event loop ---


class _Call(Protocol):
    """A call, while it runs and after."""

    def cancel(self) -> bool:
        """End the call, unless it is over; says whether this ended it."""

    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...
    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None: there is none."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None: ...
    async def wait_for_connection(self) -> None: ...
    async def initial_metadata(self) -> grpc.aio.Metadata: ...
    async def trailing_metadata(self) -> grpc.aio.Metadata: ...
    async def code(self) -> grpc.StatusCode:
        """Wait for the end; says how the call ended."""

    async def details(self) -> str: ...


class _ResponseStream(_Call, AsyncIterable[_Response_co], Protocol[_Response_co]):
    """A call with a stream of responses: iterate, or read."""

    def __aiter__(self) -> AsyncIterator[_Response_co]: ...
    async def read(self) -> _Response_co | EOFType: ...


class _RequestStream(_Call, Protocol[_Request_contra]):
    """A call that was given no requests: write them."""

    async def write(self, request: _Request_contra) -> None: ...
    async def done_writing(self) -> None: ...


class UnaryUnaryCall(_Call, Awaitable[_Response_co], Protocol[_Response_co]):
    """Await it for the response."""


class UnaryStreamCall(_ResponseStream[_Response_co], Protocol[_Response_co]):
    """Iterate over it, or read, for the responses."""


class StreamUnaryCall(
    _RequestStream[_Request_contra],
    Awaitable[_Response_co],
    Protocol[_Request_contra, _Response_co],
):
    """Await it for the response, behind the last request."""


class StreamStreamCall(
    _RequestStream[_Request_contra],
    _ResponseStream[_Response_co],
    Protocol[_Request_contra, _Response_co],
):
    """Both ways at once."""


class CallerBase:
    """What generated callers are, on the channel's event loop."""

    contract: ClassVar[Contract]

    def __init__(self, channel: Channel) -> None:
        """
        Args:
            channel: A relay's, or any grpc.aio.Channel.
        """
        # By name of method; those of each shape.
        self._unary_unary: dict[str, Callable[..., UnaryUnaryCall[Any]]] = {}
        self._unary_stream: dict[str, Callable[..., UnaryStreamCall[Any]]] = {}
        self._stream_unary: dict[str, Callable[..., StreamUnaryCall[Any, Any]]] = {}
        self._stream_stream: dict[str, Callable[..., StreamStreamCall[Any, Any]]] = {}
        _bind(self, channel)


class SessionBase(CallerBase):
    """
    What generated callers are that hold a session of their own; leaving the block closes it.

    Attributes:
        session: How it stands, and what ends it otherwise.
    """

    def __init__(self, channel: RelayChannel) -> None:
        """
        Args:
            channel: A relay's.

        Raises:
            UsageError: It is another one, which has no sessions.
        """
        self.session: Session = _make_session(channel, "relayrpc.aio.channel()")
        super().__init__(self.session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.session.__aexit__(exc_type, exc_val, exc_tb)


# --- calls that block ---


class StreamCallSync(Iterator[_Response_co], Protocol[_Response_co]):
    """A call with a stream of responses: iterate."""

    def cancel(self) -> bool:
        """End the call, unless it is over; says whether this ended it."""

    def is_active(self) -> bool: ...
    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None: there is none."""

    def add_callback(self, callback: Callable[[], None]) -> bool: ...
    def initial_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...
    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...
    def code(self) -> grpc.StatusCode:
        """Wait for the end; says how the call ended."""

    def details(self) -> str: ...


class CallerBaseSync:
    """What generated blocking callers are; any number of threads may use one."""

    contract: ClassVar[Contract]

    def __init__(self, channel: ChannelSync) -> None:
        """
        Args:
            channel: A relay's, or any grpc.Channel.
        """
        # By name of method; those of each shape.
        self._unary_unary: dict[str, Callable[..., Any]] = {}
        self._unary_stream: dict[str, Callable[..., StreamCallSync[Any]]] = {}
        self._stream_unary: dict[str, Callable[..., Any]] = {}
        self._stream_stream: dict[str, Callable[..., StreamCallSync[Any]]] = {}
        _bind(self, channel)


class SessionBaseSync(CallerBaseSync):
    """What generated blocking callers are that hold a session of their own; as `SessionBase`."""

    def __init__(self, channel: RelayChannelSync) -> None:
        """
        Args:
            channel: A relay's.

        Raises:
            UsageError: It is another one, which has no sessions.
        """
        self.session: SessionSync = _make_session(channel, "relayrpc.channel()")
        super().__init__(self.session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.session.__exit__(exc_type, exc, traceback)


# --- joints ---


def _make_session(channel: Any, wanted: str) -> Any:
    if not hasattr(channel, "session"):
        raise UsageError(f"{channel!r} has no sessions; make the channel with {wanted}")
    return channel.session()


def confirmed(metadata: Metadata | None, confirm: Confirm | None) -> Metadata | None:
    """Return metadata that say when the call of a one-way method is over."""
    if confirm is None:
        return metadata
    return (*(metadata or ()), ("relay-confirm", confirm))


def _bind(caller: CallerBase | CallerBaseSync, channel: Channel | ChannelSync) -> None:
    """Make what starts the calls of each method."""
    for method in caller.contract.descriptor.methods:
        shape, _ = SHAPES[bool(method.client_streaming), bool(method.server_streaming)]
        getattr(caller, f"_{shape}")[method.name] = getattr(channel, shape)(
            f"/{caller.contract.name}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


def message_class(file: FileDescriptor, full_name: str) -> type[Message]:
    """Return the class of a message that no program can name; of a file, or what it imports."""
    return GetMessageClass(file.pool.FindMessageTypeByName(full_name))


def add_to_server(server: Server | ServerSync, contract: Contract, handlers: Handlers) -> None:
    """
    Have a server answer the methods of a contract; before it is started.

    Args:
        server: A relay's, or any of grpcio's.
        handlers: All of them.

    Raises:
        UsageError: They are not those that the descriptors have.
    """
    odd = contract.descriptor.methods_by_name.keys() ^ handlers.keys()
    if odd:
        raise UsageError(
            f"{contract.name} has other methods in {contract.descriptor.file.name} than in the "
            f"module generated from it ({', '.join(sorted(odd))}); generate all code anew"
        )
    made = {}
    for method in contract.descriptor.methods:
        shape, _ = SHAPES[bool(method.client_streaming), bool(method.server_streaming)]
        made[method.name] = getattr(grpc, f"{shape}_rpc_method_handler")(
            handlers[method.name],
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(contract.name, made),)
    )
    server.add_registered_method_handlers(contract.name, made)
