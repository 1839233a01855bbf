"""
What a blocking caller serves: plain servicers of its callback contracts, on the threads of a pool.

Source: callbacks.py; sync_server.py.
"""

from __future__ import annotations

from relayrpc.endpoint import callbacks
from relayrpc.endpoint.sync_server import ServerCore


__all__ = ["CallbackServer"]


class CallbackServer(callbacks.CallbackServer, ServerCore):
    """A blocking server's core that announces nothing; it runs on the loop of its channel."""

    kind = "channel"
