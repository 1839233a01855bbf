"""
TLS settings of both ends, from PEM files, for the two libraries that speak TLS: ssl and grpc.

Verification is always on; there is no switch for it. A hub with a private certificate authority is
reached with `ca_file`.
Source: DESIGN.md decision 13.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from relayrpc.errors import ConfigError


__all__ = [
    "TLSOptions",
    "client_ssl_context",
    "grpc_channel_credentials",
    "grpc_server_credentials",
    "server_ssl_context",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """How a dialler proves the hub, and itself; all optional."""

    ca_file: str | None = None
    """PEM certificates to trust instead of the system's."""
    cert_file: str | None = None
    """PEM certificate chain that this side shows."""
    key_file: str | None = None
    """Its private key; None: it stands in `cert_file`."""
    server_name: str | None = None
    """The name the hub's certificate must bear, where it is not the URL's host."""


_NO_OPTIONS: Final = TLSOptions()


def client_ssl_context(tls: TLSOptions | None) -> ssl.SSLContext:
    """
    A context that verifies the hub's certificate and name.

    Raises:
        ConfigError: If a file cannot be read or used; names it.
    """
    tls = tls or _NO_OPTIONS
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:
        raise _unusable("CA file", tls.ca_file, error) from error
    if tls.cert_file is not None:
        _load_chain(context, tls.cert_file, tls.key_file)
    return context


def server_ssl_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """
    The HTTP door's context.

    Raises:
        ConfigError: If a file cannot be read or used; names it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, cert_file, key_file)
    return context


def grpc_channel_credentials(tls: TLSOptions | None) -> grpc.ChannelCredentials:
    """
    What `client_ssl_context` is, for a gRPC channel; the server name is a channel option there.

    Raises:
        ConfigError: If a file cannot be read; names it.
    """
    tls = tls or _NO_OPTIONS
    client_ssl_context(tls)  # gRPC finds out about bad files only on the wire.
    # gRPC brings certificates of its own; the system's are what a WebSocket trusts, so both
    # carriers agree.
    ca_file = tls.ca_file or ssl.get_default_verify_paths().cafile
    return grpc.ssl_channel_credentials(
        root_certificates=_read("CA file", ca_file),
        private_key=_read("key file", tls.key_file or tls.cert_file),
        certificate_chain=_read("certificate file", tls.cert_file),
    )


def grpc_server_credentials(cert_file: str, key_file: str) -> grpc.ServerCredentials:
    """
    The gRPC door's credentials.

    Raises:
        ConfigError: If a file cannot be read or used; names it.
    """
    server_ssl_context(cert_file, key_file)  # gRPC finds out about bad files only on the wire.
    pair = (_read("key file", key_file), _read("certificate file", cert_file))
    return grpc.ssl_server_credentials([pair])


def _load_chain(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    try:
        # A password prompt would stop a process that nobody watches.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (OSError, ValueError) as error:
        named = cert_file if key_file is None else f"{cert_file} with key {key_file}"
        raise _unusable("certificate", named, error) from error


def _read(what: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unusable(what, path, error) from error


def _unusable(what: str, path: str | None, error: Exception) -> ConfigError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return ConfigError(f"cannot use the {what} {path}: {reason}")
