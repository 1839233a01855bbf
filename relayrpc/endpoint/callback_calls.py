"""
Calls to whoever called, made by handlers: while one waits on them, its service object is given to
others where it is declared so, and a wait that could only be for itself is refused.

Owns: what differs from other calls for that. Does not own: turns (turns.py).
Source: WCF's ConcurrencyMode.Reentrant; docs/reference/instances.md.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any

from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.stream_call import StreamStreamCall, UnaryStreamCall
from relayrpc.endpoint.turns import Turn, current_turn
from relayrpc.endpoint.unary_call import StreamUnaryCall, UnaryUnaryCall


if TYPE_CHECKING:
    from relayrpc.endpoint.anchor import Anchor
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.call_opener import CallOpener
    from relayrpc.endpoint.live_link import LiveLink


__all__ = ["CallbackChannel", "require_callback"]


async def _wait(turn: Turn | None, waiting: Awaitable[Any]) -> Any:
    """Wait for something of a call while others have their turns."""
    if turn is None:
        return await waiting
    async with turn.given_way():
        return await waiting


@types.coroutine
def _response(call: UnaryUnaryCall | StreamUnaryCall) -> Generator[Any, None, Any]:
    return (yield from call.core.await_response())  # type: ignore[attr-defined]  # a ReplyCore


class _UnaryUnaryCall(UnaryUnaryCall):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = current_turn.get()

    def __await__(self) -> Generator[Any, None, Any]:
        return _wait(self._turn, _response(self)).__await__()


class _StreamUnaryCall(StreamUnaryCall):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = current_turn.get()

    def __await__(self) -> Generator[Any, None, Any]:
        return _wait(self._turn, _response(self)).__await__()

    async def write(self, request: Any) -> None:
        """As of any call."""
        await _wait(self._turn, super().write(request))


class _UnaryStreamCall(UnaryStreamCall):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = current_turn.get()

    async def read(self) -> Any:
        """As of any call."""
        return await _wait(self._turn, super().read())

    async def __anext__(self) -> Any:
        return await _wait(self._turn, super().__anext__())


class _StreamStreamCall(StreamStreamCall):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = current_turn.get()

    async def read(self) -> Any:
        """As of any call."""
        return await _wait(self._turn, super().read())

    async def __anext__(self) -> Any:
        return await _wait(self._turn, super().__anext__())

    async def write(self, request: Any) -> None:
        """As of any call."""
        await _wait(self._turn, super().write(request))


class CallbackChannel(Channel):
    """The channel inside `Caller`."""

    unary_unary_call = _UnaryUnaryCall
    unary_stream_call = _UnaryStreamCall
    stream_unary_call = _StreamUnaryCall
    stream_stream_call = _StreamStreamCall

    def __init__(self, live: LiveLink, anchor: Anchor) -> None:
        """
        Args:
            live: The server's.
            anchor: What callbacks belong to.
        """
        super().__init__(live, anchor=anchor, owns_link=False, reads_contracts=True)
        self.open_unary = self._open_unary  # type: ignore[assignment]  # the same, behind a check
        self.open_stream = self._open_stream  # type: ignore[assignment]

    def _open_unary(self, core: CallCore, method: str, *arguments: Any) -> None:
        require_callback(self.opener, method)
        self.opener.open_unary(core, method, *arguments)

    def _open_stream(self, core: CallCore, method: str, *arguments: Any) -> None:
        require_callback(self.opener, method)
        self.opener.open_stream(core, method, *arguments)


def require_callback(opener: CallOpener, method: str) -> None:
    """Raise UsageError where a handler that calls "pkg.Service/Method" would wait for itself."""
    turn = current_turn.get()
    if turn is not None and not opener.is_one_way(method):
        turn.require_callback()
