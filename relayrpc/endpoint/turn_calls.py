"""
Calls that may come back to the handler that makes them: a host's callbacks, and what callbacks call
at the host. While the handler waits on one, its service object is given to others where it is
declared so, and a wait that could only be for itself is refused.

Owns: what differs from other calls for that. Does not own: turns (turns.py).
Source: WCF's ConcurrencyMode.Reentrant; docs/reference/instances.md.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn

from relayrpc.endpoint.stream_call import StreamStreamCall, UnaryStreamCall
from relayrpc.endpoint.turns import Turn, current_turn
from relayrpc.endpoint.unary_call import StreamUnaryCall, UnaryUnaryCall


if TYPE_CHECKING:
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.call_opener import CallOpener
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.metadata import InvocationMetadata, MetadataInput
    from relayrpc.endpoint.server import Server
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["heed_turns", "require_wait"]


async def _wait(turn: Turn, waiting: Awaitable[Any]) -> Any:
    """Wait for something of a call while others have their turns."""
    async with turn.given_way():
        return await waiting


@types.coroutine
def _response(call: UnaryUnaryCall | StreamUnaryCall) -> Generator[Any, None, Any]:
    return (yield from call.core.await_response())  # type: ignore[attr-defined]  # a ReplyCore


class _UnaryUnaryCall(UnaryUnaryCall):
    def __init__(self, turn: Turn, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = turn

    def __await__(self) -> Generator[Any, None, Any]:
        return _wait(self._turn, _response(self)).__await__()


class _StreamUnaryCall(StreamUnaryCall):
    def __init__(self, turn: Turn, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = turn

    def __await__(self) -> Generator[Any, None, Any]:
        return _wait(self._turn, _response(self)).__await__()

    async def write(self, request: Any) -> None:
        """As of any call."""
        await _wait(self._turn, super().write(request))


class _UnaryStreamCall(UnaryStreamCall):
    def __init__(self, turn: Turn, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = turn

    async def read(self) -> Any:
        """As of any call."""
        return await _wait(self._turn, super().read())

    async def __anext__(self) -> Any:
        return await _wait(self._turn, super().__anext__())


class _StreamStreamCall(StreamStreamCall):
    def __init__(self, turn: Turn, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = turn

    async def read(self) -> Any:
        """As of any call."""
        return await _wait(self._turn, super().read())

    async def __anext__(self) -> Any:
        return await _wait(self._turn, super().__anext__())

    async def write(self, request: Any) -> None:
        """As of any call."""
        await _wait(self._turn, super().write(request))


# What a channel makes its calls with -> what is made while it is a handler's turn.
_IN_TURN: Final = {
    "unary_unary_call": _UnaryUnaryCall,
    "unary_stream_call": _UnaryStreamCall,
    "stream_unary_call": _StreamUnaryCall,
    "stream_stream_call": _StreamStreamCall,
}


def heed_turns(channel: Channel, server: Server | None = None) -> None:
    """
    Have a channel's calls heed the turn of the handler that makes them.

    Args:
        channel: Not used yet.
        server: Of the handlers that the calls may come back to; None: of all.
    """
    channel.find_turn = functools.partial(_find_turn, server)  # type: ignore[method-assign]
    for plain, in_turn in _IN_TURN.items():
        setattr(channel, plain, functools.partial(_make, getattr(channel, plain), in_turn))
    opener = channel.opener

    def open_unary(
        core: CallCore,
        method: str,
        shape: pb.Shape,
        serializer: Callable[[Any], bytes] | None,
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        *options: Any,
    ) -> None:
        turn = channel.find_turn()
        if turn is not None:
            serializer, request = _serialized(serializer, request)
            if serializer is None:
                require_wait(turn, opener, method, metadata, request)
        opener.open_unary(core, method, shape, serializer, request, timeout, metadata, *options)

    def open_stream(
        core: CallCore,
        method: str,
        shape: pb.Shape,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        *options: Any,
    ) -> None:
        require_wait(channel.find_turn(), opener, method, metadata)
        opener.open_stream(core, method, shape, timeout, metadata, *options)

    channel.open_unary = open_unary  # type: ignore[assignment]  # the same, behind a check
    channel.open_stream = open_stream  # type: ignore[assignment]


def _make(
    plain: Callable[..., Any], in_turn: Callable[..., Any], channel: Channel, *arguments: Any
) -> Any:
    """Make a call: one that heeds the turn of the handler that makes it, where there is one."""
    turn = channel.find_turn()
    return plain(channel, *arguments) if turn is None else in_turn(turn, channel, *arguments)


def _find_turn(server: Server | None) -> Turn | None:
    turn = current_turn.get()
    return turn if turn is None or server is None or turn.server is server else None


def _serialized(
    serializer: Callable[[Any], bytes] | None, request: Any
) -> tuple[Callable[[Any], bytes] | None, Any]:
    """Serialize a request now; what that raises is raised when it would be serialized."""
    if serializer is None:
        return None, request
    try:
        return None, serializer(request)
    except Exception as error:
        return functools.partial(_raise, error), request


def _raise(error: Exception, request: Any) -> NoReturn:
    raise error


def require_wait(
    turn: Turn | None,
    opener: CallOpener,
    method: str,
    metadata: MetadataInput | InvocationMetadata,
    request: bytes | None = None,
) -> None:
    """
    Raise UsageError where a handler that calls "pkg.Service/Method" would wait for itself.

    Args:
        turn: Of the handler; None: it has none.
        opener: Opens the call.
        method: Its name.
        metadata: As the program gives it.
        request: The one that it has, serialized; None: a stream.
    """
    if turn is not None and not opener.is_over_soon(method, metadata, request):
        turn.require_wait()
