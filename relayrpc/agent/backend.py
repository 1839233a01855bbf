"""
An existing gRPC server: what there is to know of it before it is exposed, and the connection to it.

Owns: the settings of one backend, its channel, why it cannot be reached. Does not own: what it
serves (contract.py), how it fares (health.py).
Source: docs/howto/expose-an-existing-server.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import grpc.aio

from relayrpc.carrier import uninstrumented
from relayrpc.carrier.tls import TLSOptions, client_ssl_context, grpc_channel_credentials
from relayrpc.carrier.url import RelayURL, parse_urls
from relayrpc.contract.labels import require_labels
from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS, Limits


__all__ = ["FILE_FIELDS", "Backend"]

_EXAMPLE: Final = "grpc://127.0.0.1:50051"
# What gRPC adds for a message and for headers of its own.
_METADATA_OVERHEAD_BYTES: Final = 4096
_PROBE_TIMEOUT_S: Final = 3.0
_TLS_FIELDS: Final = ("tls_ca", "tls_cert", "tls_key", "tls_name")
FILE_FIELDS: Final = ("tls_ca", "tls_cert", "tls_key", "hub_ca", "descriptors")
"""Those of Backend that name files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One gRPC server, and as what it is exposed."""

    target: str
    """Where it listens, "grpc://127.0.0.1:50051"."""
    at: str | tuple[str, ...]
    """
    The hub and the address, "relay://hub:7350/contoso/greeter"; several are hubs that take each
    other's place, the first choice first.
    """
    tls: bool = False
    """The server speaks TLS; settings that begin with `tls_` say so too."""
    tls_ca: str | None = None
    """Certificates to trust for it instead of the system's, PEM."""
    tls_cert: str | None = None
    """Certificate chain to show it, PEM."""
    tls_key: str | None = None
    """Its private key, PEM; without: it stands in `tls_cert`."""
    tls_name: str | None = None
    """The name that the server's certificate bears, where it is not the target's host."""
    hub_ca: str | None = None
    """Certificates to trust for the hub instead of the system's, PEM."""
    descriptors: str | None = None
    """Descriptor set with the contract, for a server without reflection."""
    services: tuple[str, ...] = ()
    """Full names of services; only these are exposed. Without: all that the contract has."""
    health: str = ""
    """The service whose health is watched; empty: the server's as a whole."""
    slots: int = 0
    """Calls at once, the hub keeps the rest waiting; 0: any number."""
    priority: int = 0
    """Above 0: stand by for hosts of a lower number."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """By which it is found, as `{ region = "eu" }`; calls are not routed by them."""

    def check(self) -> None:
        """
        Look at what can be looked at before any I/O but for files.

        Raises:
            ConfigError: Something cannot be used.
        """
        self.host_and_port()
        url = self.urls[0]
        if self.hub_ca is not None and not url.is_secure:
            raise ConfigError(f"hub_ca has no use for {url}; write relays:// or wss://")
        if self.slots < 0 or self.priority < 0:
            raise ConfigError("slots and priority are 0 or above")
        require_labels(self.labels)
        if self.is_secure:
            client_ssl_context(self.tls_options)
        if self.hub_ca is not None:
            client_ssl_context(self.hub_tls)

    def __str__(self) -> str:
        return f"grpc://{self.authority}"

    @property
    def urls(self) -> tuple[RelayURL, ...]:
        """The hubs, the first choice first, all with the same address."""
        return parse_urls(self.at)

    @property
    def where(self) -> str:
        """The hubs and the address, for a person."""
        return " or ".join(map(str, self.urls))

    @property
    def authority(self) -> str:
        """`host:port`, IPv6 in brackets."""
        host, port = self.host_and_port()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def is_secure(self) -> bool:
        """True when the server speaks TLS."""
        return self.tls or any(getattr(self, name) is not None for name in _TLS_FIELDS)

    @property
    def tls_options(self) -> TLSOptions:
        """How the server is verified."""
        return TLSOptions(
            ca_file=self.tls_ca,
            cert_file=self.tls_cert,
            key_file=self.tls_key,
            server_name=self.tls_name,
        )

    @property
    def hub_tls(self) -> TLSOptions | None:
        """How the hub is verified; None: by the system's certificates."""
        return None if self.hub_ca is None else TLSOptions(ca_file=self.hub_ca)

    def fingerprint(self) -> bytes:
        """
        Return what differs when a setting or the content of a file does.

        Raises:
            ConfigError: A file cannot be read.
        """
        digest = hashlib.sha256(repr(self).encode())
        for path in (getattr(self, name) for name in FILE_FIELDS):
            if path is None:
                continue
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
            digest.update(hashlib.sha256(data).digest())
        return digest.digest()

    def host_and_port(self) -> tuple[str, int]:
        """
        Read the target.

        Raises:
            ConfigError: It is none.
        """
        try:
            parts = urlsplit(self.target)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"cannot use {self.target!r}: {error}; write {_EXAMPLE}") from error
        if parts.scheme != "grpc":
            hint = "the server's URL starts with grpc://, with TLS too"
            raise ConfigError(f"cannot use {self.target!r}: {hint}, as in {_EXAMPLE}")
        if not host or not port or "@" in parts.netloc:
            raise ConfigError(f"cannot use {self.target!r}: it names no host and port; {_EXAMPLE}")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError(
                f"cannot use {self.target!r}: it ends with its port; the address goes with the hub"
            )
        return host, port

    def open_channel(self, limits: Limits = DEFAULT_LIMITS) -> grpc.aio.Channel:
        """
        Make the channel; it connects with its first call.

        Raises:
            ConfigError: A certificate file cannot be used.
        """
        metadata_bytes = limits.metadata_bytes_max + _METADATA_OVERHEAD_BYTES
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", limits.message_bytes_max),
            # Requests were measured as they came from the hub.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", metadata_bytes),
            ("grpc.absolute_max_metadata_size", metadata_bytes),
            ("grpc.initial_reconnect_backoff_ms", int(limits.backoff_s_min * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(limits.backoff_s_max * 1000)),
            # Whether a call is safe to repeat is the caller's to say.
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if not self.is_secure:
            return uninstrumented.insecure_channel(self.authority, options=options)
        if self.tls_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls_name))
        credentials = grpc_channel_credentials(self.tls_options)
        return uninstrumented.secure_channel(self.authority, credentials, options=options)

    async def find_fault(self) -> str:
        """
        Say why the server cannot be reached; gRPC's own texts do not tell TLS from plaintext.

        Returns:
            A clause for a person, "connection refused"; empty: nothing was found.
        """
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                if self.is_secure:
                    await self._probe(client_ssl_context(self.tls_options))
                    return ""
                await self._probe(None)
        except ConnectionRefusedError:
            return "connection refused"
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted: {error.verify_message}"
        except (ssl.SSLError, ConnectionResetError):
            return "it does not answer with TLS; leave the TLS settings out if it is a plain server"
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return error.strerror or str(error)
        return "it speaks TLS; say so with --tls" if await self._speaks_tls() else ""

    async def _probe(self, context: ssl.SSLContext | None) -> None:
        host, port = self.host_and_port()
        name = (self.tls_name or host) if context is not None else None
        if context is not None:
            context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
        writer.transport.abort()

    async def _speaks_tls(self) -> bool:
        # Nothing is sent but a greeting; who answers is of no interest.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await self._probe(context)
        except (OSError, TimeoutError):
            return False
        return True
