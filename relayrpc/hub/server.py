"""
The hub process's object: two doors, and the hub behind them.

Owns: where it listens and what that needs. Does not own: what it is told (config.py), what happens
behind the doors (doorless.py, session.py).
Source: DESIGN.md "Front doors" and decision 13.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import grpc

from relayrpc.carrier.tls import grpc_server_credentials, server_ssl_context
from relayrpc.errors import ConfigError
from relayrpc.hub.config import HubConfig, config_problems, listen_address
from relayrpc.hub.doorless import DoorlessHub
from relayrpc.hub.grpc_door import GRPCDoor
from relayrpc.hub.health import HubHealth
from relayrpc.hub.http_door import Answer, HTTPDoor
from relayrpc.hub.reflection import HubReflection
from relayrpc.hub.session import HubSessions
from relayrpc.observe.metrics import CONTENT_TYPE
from relayrpc.store.base import Store
from relayrpc.store.sqlite import SQLiteStore


__all__ = ["GRPCGateway", "Hub"]

_LINK_PATH = "/relayrpc.v1.Link/Connect"


class GRPCGateway(Protocol):
    """What serves other calls than links on the gRPC port."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """As grpc.GenericRpcHandler's."""

    async def finished(self) -> None:
        """Wait until it has no call open."""

    async def aclose(self) -> None:
        """End what is left of it. Idempotent."""


class Hub:
    """One hub. `start()`, then `drain()` or `aclose()`."""

    def __init__(
        self,
        config: HubConfig | None = None,
        *,
        grpc_gateways: Sequence[Callable[[HubSessions], GRPCGateway]] = (),
    ) -> None:
        """
        Args:
            config: How it is run.
            grpc_gateways: Makers of what else answers on the gRPC port, asked in order.

        Raises:
            ConfigError: The configuration contradicts itself or would listen beyond loopback
            without leave.
        """
        self.config = config or HubConfig()
        problems = config_problems(self.config)
        if problems:
            raise ConfigError("; ".join(f"{problem.name} {problem.text}" for problem in problems))
        self._grpc_host, self._grpc_port = listen_address(self.config.grpc)
        self._http_host, self._http_port = listen_address(self.config.http)
        limits = self.config.limits
        self._inside = DoorlessHub(
            limits=limits,
            has_metrics=self.config.metrics,
            logs_every_call=self.config.log_calls,
            addresses=self.config.addresses,
            open_store=self._open_store if self.config.store else None,
        )
        self.sessions = self._inside.sessions
        self._is_listening = False
        pages = {"/readyz": self._readiness}
        metrics = self._inside.metrics
        if metrics is not None:
            pages["/metrics"] = lambda: Answer(metrics.render(), content_type=CONTENT_TYPE)
        self._health = HubHealth(self.sessions, is_ready=lambda: self._is_listening)
        self.sessions.observers.add(self._health)
        cert, key = self.config.tls_cert, self.config.tls_key
        self._http = HTTPDoor(
            self.sessions.accept,
            limits=limits,
            ssl_context=server_ssl_context(cert, key) if cert and key else None,
            pages=pages,
        )
        self._grpc_gateways = [make(self.sessions) for make in grpc_gateways]
        self._grpc = GRPCDoor(
            self.sessions.accept,
            limits=limits,
            credentials=grpc_server_credentials(cert, key) if cert and key else None,
            websocket_url=self._websocket_url,
            handlers=(
                self._health,
                HubReflection(self.sessions, self._inside.contracts),
                *self._grpc_gateways,
            ),
        )

    @property
    def grpc_port(self) -> int:
        """Where the gRPC door listens, after start()."""
        return self._grpc_port

    @property
    def http_port(self) -> int:
        """Where the HTTP door listens, after start()."""
        return self._http_port

    async def _open_store(self) -> Store:
        assert self.config.store
        return await SQLiteStore.open(Path(self.config.store), limits=self.config.limits)

    async def start(self) -> None:
        """
        Open the store and listen on both doors; returns when both accept.

        Raises:
            OSError: A port cannot be listened on.
            StoreError: The store cannot be opened or read.
        """
        await self._inside.start()
        self._http_port = await self._http.start(self._http_host, self._http_port)
        self._grpc_port = await self._grpc.start(self._grpc_host, self._grpc_port)
        self._is_listening = True
        self._health.changed()

    async def drain(self) -> None:
        """Close the ports, let calls finish up to the drain timeout, then end every link."""
        until_s = asyncio.get_running_loop().time() + self.sessions.limits.drain_timeout_s
        self._stop_listening()
        await self._inside.drain()
        # What came to an end at its host may still be on its way to a client that reads slowly.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                for gateway in self._grpc_gateways:
                    await gateway.finished()
        await self.aclose()

    async def aclose(self) -> None:
        """Stop now: every call ends. Idempotent."""
        self._stop_listening()
        for gateway in self._grpc_gateways:
            await gateway.aclose()
        await self._inside.aclose()
        self._health.close()
        await self._grpc.aclose()
        await self._http.aclose()

    def _stop_listening(self) -> None:
        self._is_listening = False
        self._health.changed()
        self._http.stop_listening()
        self._grpc.stop_listening()

    def _readiness(self) -> Answer:
        if self._is_listening:
            return Answer(b"ready\n")
        reason = b"draining\n" if self.sessions.is_draining else b"not listening\n"
        return Answer(reason, 503, "Service Unavailable")

    def _websocket_url(self, reached_as: str) -> str:
        """
        Where a link on the gRPC door may move to; `reached_as` is how its peer names this hub, or
        empty.
        """
        public = self.config.http_public
        if public:
            return public if _LINK_PATH in public else public.rstrip("/") + _LINK_PATH
        host = self._http_host
        if _is_wildcard(host):
            host = reached_as
        if not host:
            return ""
        scheme = "wss" if self.config.tls_cert else "ws"
        name = f"[{host}]" if ":" in host else host
        return f"{scheme}://{name}:{self._http_port}{_LINK_PATH}"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
