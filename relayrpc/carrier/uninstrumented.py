"""
grpcio's own makers of channels and servers, whatever instrumentation has put in their place.

The stream that a link runs over is no call of the program: a span around it would last as long as
the link, and the interceptors that libraries add to every channel and server do not take it. Nor is
what an agent asks of a backend.
Source: tests/integration/test_libraries.py notices when grpcio keeps them elsewhere.
"""

from __future__ import annotations

from grpc.aio._channel import insecure_channel, secure_channel
from grpc.aio._server import server


__all__ = ["insecure_channel", "secure_channel", "server"]
