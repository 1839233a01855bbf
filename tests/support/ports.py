"""
Ports that are a test's own before somebody listens there, and after.

A port that was free a moment ago may be given to anybody who asks for any: a test that counts on
nobody being there, or on being there again, holds it all the while.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


__all__ = ["held_doors", "held_port"]


@contextmanager
def held_port() -> Iterator[int]:
    """
    Hold a port of this machine: connections are refused until somebody listens there, which is who
    was told its number.
    """
    with socket.socket() as holder:
        # So that another socket of this kind may listen there, as those of asyncio and gRPC are.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def held_doors() -> Iterator[tuple[str, str]]:
    """Hold ports for the hubs of a test, one after the other; yields the flags of each."""
    with held_port() as grpc, held_port() as http:
        yield f"--grpc=127.0.0.1:{grpc}", f"--http=127.0.0.1:{http}"
