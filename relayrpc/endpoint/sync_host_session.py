"""
The host's end of a session as plain handlers have it: usable from any thread.

Source: host_session.py; docs/reference/sessions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from relayrpc.endpoint.sync_caller import Caller


if TYPE_CHECKING:
    from relayrpc.endpoint.host_session import HostSession as AsyncHostSession
    from relayrpc.endpoint.session import SessionState


__all__ = ["HostSession"]


class HostSession:
    """
    One session at its host; the same object in all of its plain handlers.

    Attributes:
        id: For logs: tells it from others of this host, and gives nobody a right to it.
        service: Full name of the service that it was opened for.
        identity: The caller, as the hub vouches for it.
        data: For the program: what belongs to the session. Its plain handlers may run at once.
    """

    def __init__(self, session: AsyncHostSession) -> None:
        self._session = session
        self.id = session.id
        self.service = session.service
        self.identity = session.identity
        self.data = session.data
        self._caller: Caller | None = None

    @property
    def state(self) -> SessionState:
        """As of an asynchronous handler's."""
        return self._session.state

    def close(self, fault: str = "") -> None:
        """
        Take no new calls, and end the session when the running ones are over.

        Args:
            fault: Why, for its caller, whose session it faults; empty: it is closed there too.
        """
        self._session.server.handover.call(self._session.close, fault)

    def add_state_callback(self, callback: Callable[[SessionState], object]) -> None:
        """Have `callback(state)` called at every change, on the server's thread for callbacks."""
        server = self._session.server

        def tell(state: SessionState) -> None:
            server.portal.call_back(callback, state)

        server.handover.call(self._session.add_state_callback, tell)

    def add_done_callback(self, callback: Callable[[HostSession], object]) -> None:
        """
        Have `callback(session)` called once the session is over and its handlers returned, on the
        server's thread for callbacks.
        """
        server = self._session.server

        def tell(_: AsyncHostSession) -> None:
            server.portal.call_back(callback, self)

        server.handover.call(self._session.add_done_callback, tell)

    def caller(self) -> Caller:
        """Return a channel to the caller, good for as long as the session."""
        if self._caller is None:
            server = self._session.server
            self._caller = Caller(server.handover.call(self._session.caller), server)
        return self._caller
