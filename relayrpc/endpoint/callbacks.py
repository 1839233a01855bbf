"""
What a caller serves: the servicers of its callback contracts, for hosts that it has called.

Owns: which calls may come, and the lines by which hosts keep their callers within reach. Does not
own: the host's side (caller.py), running handlers (server.py).
Source: link.proto, Open.anchor; docs/adr/0020-anchored-calls.md; docs/reference/callbacks.md.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from relayrpc.endpoint.anchor import LINE_METHOD
from relayrpc.endpoint.call_core import CallCore
from relayrpc.endpoint.context import Context, current_call
from relayrpc.endpoint.dispatch import run_call
from relayrpc.endpoint.server import Server
from relayrpc.endpoint.silent_call import SilentCall
from relayrpc.link.call import STATUS_OK, STATUS_UNIMPLEMENTED


if TYPE_CHECKING:
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["CallbackServer"]

_ABORTED: Final = "the caller aborted its session"
_NOT_CALLED: Final = "this caller is called back only by hosts that it has called"


class _Line(SilentCall):
    """
    A host's line to this caller, held until the host gives it up.

    Attributes:
        callbacks: Serves what comes by it.
    """

    def __init__(self, call: Call, callbacks: CallbackServer) -> None:
        self._call = call
        self.callbacks = callbacks

    def half_close_received(self) -> None:
        """The host needs the line no more."""
        link = self._call.link
        link.end_call(self._call, status=STATUS_OK)
        link.flush_soon()


async def _run_callback(context: Context) -> None:
    # For the handler and the tasks that it makes, which may close the session that it belongs to.
    current_call.set(context)
    await run_call(context)


class CallbackServer(Server):
    """A server that announces nothing: hosts reach it by the calls that they were called with."""

    run_call = staticmethod(_run_callback)
    stopped = "the caller closed its channel"
    serves_channel = True

    def serves(self, service: str) -> bool:
        """Say whether hosts find a service here, by its full name."""
        return service in self._table.services()

    def begin(self) -> None:
        """
        Take calls from now on; needs a running loop.

        Raises:
            UsageError: It has service objects that serve elsewhere; nothing has changed.
        """
        self.start_serving(asyncio.get_running_loop())

    async def end(self) -> None:
        """Refuse calls, and cancel the handlers that run; returns when they have returned."""
        self.cancel_calls()
        await self.wait_idle()

    def give_up_within(self, session: Call) -> None:
        """End the callbacks within a session that is aborted, and cancel their handlers."""
        for context in list(self._contexts):
            if context.call is not None and context.call.anchor is session:
                context.give_up(_ABORTED)

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        """Take a call, of a host that a call of this caller's runs at; the link's on_call."""
        anchor = call.anchor
        if anchor is None or not isinstance(anchor.app, (CallCore, _Line)):
            self.refuse(call, STATUS_UNIMPLEMENTED, _NOT_CALLED)
        elif call.method == LINE_METHOD:
            call.app = line = _Line(call, self)
            if opening.half_close:
                # Given up before it had left the host.
                line.half_close_received()
        else:
            self.start_call(call, opening)
