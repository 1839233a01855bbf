"""
Typed faults: messages that a contract declares for its errors, as exceptions of handlers and of
calls.

A fault travels among the details of the google.rpc.Status in an error's trailing metadata, where
any gRPC client finds it. A fault class is known here, by the full name of its message, as soon as
it is defined.
Owns: fault classes, and what of a status is one. Does not own: which faults a handler may raise
(operations.py), ending its call (failure.py), errors of calls (rpc_error.py, sync_error.py).
Source: google/rpc/status.proto; docs/reference/faults.md.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    NamedTuple,
    Self,
    cast,
    get_args,
    get_origin,
)

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from typing_extensions import TypeVar

from relayrpc.link.call import DETAILS_KEY


if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from relayrpc.link.call import Origin


__all__ = ["Fault", "as_fault"]

_MessageT_co = TypeVar("_MessageT_co", bound=Message, covariant=True, default=Message)
_ErrorT = TypeVar("_ErrorT", bound=grpc.RpcError)

# Full name of a message -> the classes for it, by where they are defined: each file whose contracts
# declare a message has one, and a module that is loaded again takes its own one's place.
_classes: Final[dict[str, dict[tuple[str, str], type[Fault[Any]]]]] = {}

_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+")


class _Status(NamedTuple):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class _FaultStatus(_Status, grpc.Status):
    """What `abort_with_status` takes."""


class Fault(Exception, Generic[_MessageT_co]):
    """
    A message that a contract declares for its errors, raised:

        class OutOfStockFault(relayrpc.Fault[OutOfStock]): ...

    A handler raises it to end its call. At the caller the error of the call is an instance of the
    same class, and of RpcError.

    Attributes:
        detail: The message.
        origin: "host": a handler has raised it.
        may_have_executed: True, for the same reason.
    """

    message: ClassVar[type[Message]]
    """The class of the message."""

    origin: Origin = "host"
    may_have_executed: bool = True

    def __init__(
        self,
        detail: _MessageT_co | Mapping[str, Any],
        *,
        code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION,
        reason: str = "",
    ) -> None:
        """
        Args:
            detail: The message, or its fields by name; None: not set.
            code: The status that the call ends with; not OK.
            reason: The text that goes with it. Empty: made of the message's name.

        Raises:
            TypeError: The class names no message, or this is another one.
            ValueError: There is no such field, or the code is OK or none.
        """
        kind: type[Message] | None = getattr(type(self), "message", None)
        if kind is None:
            name = type(self).__name__
            raise TypeError(f"{name} has no message; derive it from relayrpc.Fault[TheMessage]")
        made = kind(**detail) if isinstance(detail, Mapping) else detail
        if not isinstance(made, kind):
            wanted = kind.DESCRIPTOR.full_name
            raise TypeError(f"{type(self).__name__} takes a {wanted}, not {type(made).__name__}")
        if not isinstance(code, grpc.StatusCode) or code is grpc.StatusCode.OK:
            raise ValueError(f"a fault is an error, and {code} is none; give it a grpc.StatusCode")
        self.detail = cast("_MessageT_co", made)
        self._code: grpc.StatusCode = code
        self._reason = reason or _words(kind.DESCRIPTOR.name)
        super().__init__(self._reason)

    def __init_subclass__(cls, **options: Any) -> None:
        """Get known, where the class is one of a message."""
        super().__init_subclass__(**options)
        message = vars(cls).get("message") or _message_named_by(cls)
        if message is not None:
            cls.message = message
            known = _classes.setdefault(message.DESCRIPTOR.full_name, {})
            known[cls.__module__, cls.__qualname__] = cls

    @classmethod
    def from_detail(
        cls,
        detail: _MessageT_co,  # type: ignore[misc]  # asked of a class with its own message
        *,
        code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION,
        reason: str = "",
    ) -> Self:
        """Make a fault of its message, whatever the constructor of its class takes."""
        fault = cls.__new__(cls)
        Fault.__init__(fault, detail, code=code, reason=reason)
        return fault

    @classmethod
    def from_error(cls, error: BaseException) -> Self | None:
        """
        Find a fault in the error of a call over any gRPC channel, grpcio's own ones too.

        Returns:
            One of this class, the error itself where it is one; of `Fault`: of any class that is
            known. None: there is none.
        """
        if isinstance(error, cls):
            return error
        if not isinstance(error, grpc.RpcError) or not hasattr(error, "trailing_metadata"):
            return None
        own = getattr(cls, "message", ())
        for classes, detail in _known_details(error.trailing_metadata()):
            # Known ones first, then one that is derived from them.
            for kind in (*classes, cls) if isinstance(detail, own) else classes:
                if issubclass(kind, cls):
                    code, reason = error.code(), error.details()
                    return kind.from_detail(cast("Any", detail), code=code, reason=reason or "")
        return None

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return the text that goes with the status."""
        return self._reason

    def trailing_metadata(self) -> Collection[tuple[str, str | bytes]]:
        """Return what came with the error of a call, as RpcError has it; else there is nothing."""
        return ()

    def to_status(self) -> grpc.Status:
        """Return what `context.abort_with_status` takes, on grpcio's own servers too."""
        status = status_pb2.Status(code=self.code().value[0], message=self.details())
        status.details.add().Pack(self.detail)
        trailing_metadata = ((DETAILS_KEY, status.SerializeToString()),)
        return _FaultStatus(self.code(), self.details(), trailing_metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        data = self.detail.SerializePartialToString()
        return (_restore, (type(self), data, self._code, self._reason))


def _restore(
    kind: type[Fault[Any]], data: bytes, code: grpc.StatusCode, reason: str
) -> Fault[Any]:
    return kind.from_detail(kind.message.FromString(data), code=code, reason=reason)


def _message_named_by(cls: type) -> type[Message] | None:
    """Return M of a `class ...(Fault[M])`."""
    for base in vars(cls).get("__orig_bases__", ()):
        for argument in get_args(base) if _is_fault(get_origin(base)) else ():
            if isinstance(argument, type) and issubclass(argument, Message):
                # Message itself stands for one that has no name.
                return None if argument is Message else argument
    return None


def _is_fault(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Fault)


def _words(name: str) -> str:
    """Turn "OutOfStock" into "out of stock"."""
    return " ".join(word.lower() for word in _WORD_START.split(name) if word)


# --- received ---


def as_fault(error: _ErrorT, metadata: Iterable[tuple[str, str | bytes]]) -> _ErrorT:
    """
    Return the error of a call as the fault that it is, where its class is known.

    Args:
        error: Just made, of the relay's own classes.
        metadata: The trailers that came with it.

    Returns:
        An instance of the error's class, and of every class that is known for the fault; or the
        error as it is.
    """
    kind: Any = type(error)
    for classes, detail in _known_details(metadata):
        return cast("_ErrorT", _joined(kind, classes)(error, detail))
    return error


def _known_details(
    metadata: Iterable[tuple[str, str | bytes]] | None,
) -> Iterator[tuple[tuple[type[Fault[Any]], ...], Message]]:
    """Yield the details that classes are known for, with these; peers may send anything."""
    for key, value in metadata or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for packed in _details(value):
                classes = tuple(_classes.get(packed.TypeName(), {}).values())
                if classes:
                    try:
                        detail = classes[0].message.FromString(packed.value)
                    except DecodeError:
                        continue
                    yield classes, detail


def _details(value: bytes) -> Iterable[AnyMessage]:
    try:
        details: Iterable[AnyMessage] = status_pb2.Status.FromString(value).details
    except DecodeError:
        return ()
    return details


class _Received:
    """Part of the error of a call that is a fault: takes the place of both constructors."""

    detail: Message

    def __init__(self, error: grpc.RpcError, detail: Message) -> None:
        vars(self).update(vars(error))
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(vars(self))
        data = state.pop("detail").SerializePartialToString()
        _, kind, *classes = type(self).__bases__
        return (_restore_received, (kind, tuple(classes), state, data))


def _restore_received(
    kind: Any, classes: tuple[type[Fault[Any]], ...], state: dict[str, Any], data: bytes
) -> object:
    error = kind.__new__(kind)
    vars(error).update(state)
    return _joined(kind, classes)(error, classes[0].message.FromString(data))


@functools.cache
def _joined(kind: Any, classes: tuple[type[Fault[Any]], ...]) -> Any:
    """Make the class of errors that are instances of all of these."""
    first = classes[0]
    body = {"__module__": first.__module__, "__doc__": first.__doc__}
    return types.new_class(
        first.__name__, (_Received, kind, *classes), exec_body=lambda space: space.update(body)
    )
