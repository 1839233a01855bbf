"""
Call credentials: plugins that give a call its metadata when it is started, as tokens are given.

gRPC's credentials are objects of its core, and a channel that is not gRPC's can use them only where
grpcio lets the plugin inside be seen; those of `call_credentials()` it can always. Owns: finding
the plugins, asking them. Does not own: which calls they are for (call_opener.py). Logs nothing that
a plugin gives.
Source: grpc/_plugin_wrapping.py; tests/integration/test_call_credentials.py notices a change there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
import grpc.aio

from relayrpc.endpoint.metadata import EMPTY, MetadataTooLargeError, Pairs, encode_metadata


__all__ = [
    "CredentialsError",
    "Plugin",
    "ask_plugins",
    "call_credentials",
    "describe_service",
    "find_plugins",
]

Answer: TypeAlias = "Callable[[Any, object], None]"
"""Takes the metadata, or what went wrong; on any thread, once."""

Plugin: TypeAlias = "Callable[[AuthMetadataContext, Answer], None]"
"""Asks a program's plugin; may block."""

_SECURE_PORT: Final = ":443"


class CredentialsError(Exception):
    """No metadata came of a plugin; the text is what gRPC tells."""


class _AuthMetadataContext(NamedTuple):
    service_url: str
    method_name: str


class AuthMetadataContext(_AuthMetadataContext, grpc.AuthMetadataContext):
    """What a plugin is told of the call: "https://host:port/pkg.Service" and "Method"."""


class _CallCredentials(grpc.CallCredentials):
    """gRPC's own, good for its channels too, with the plugin beside it."""

    def __init__(self, plugin: grpc.AuthMetadataPlugin, name: str | None) -> None:
        super().__init__(grpc.metadata_call_credentials(plugin, name)._credentials)
        self.plugin = plugin


def call_credentials(
    plugin: grpc.AuthMetadataPlugin, name: str | None = None
) -> grpc.CallCredentials:
    """
    Make call credentials of a plugin; as `grpc.metadata_call_credentials`, but of use on a relay's
    channel whatever grpcio's version.

    Args:
        plugin: Called on a thread with what it is for and with the callback that takes the metadata
            or an error.
        name: For gRPC's own log.
    """
    return _CallCredentials(plugin, name)


def find_plugins(credentials: grpc.CallCredentials) -> tuple[Plugin, ...]:
    """
    Return the plugins of call credentials, in the order in which their metadata is sent.

    Raises:
        UsageError: They are of a kind whose plugin cannot be seen.
    """
    if isinstance(credentials, _CallCredentials):
        return (_own_plugin(credentials.plugin),)
    plugins = _find_in_core(getattr(credentials, "_credentials", None))
    if not plugins:
        raise grpc.aio.UsageError(
            f"call credentials of this kind, {credentials!r}, cannot be used on a relay's channel; "
            "make them with relayrpc.call_credentials(plugin)"
        )
    return plugins


def describe_service(authority: str, method: str) -> AuthMetadataContext:
    """
    Tell plugins what a call is for, as gRPC does.

    Args:
        authority: "host:port"; a port of 443 is left out.
        method: "pkg.Service/Method".
    """
    service, _, name = method.rpartition("/")
    return AuthMetadataContext(f"https://{authority.removesuffix(_SECURE_PORT)}/{service}", name)


async def ask_plugins(
    plugins: Sequence[Plugin],
    context: AuthMetadataContext,
    *,
    executor: Executor,
    limit_bytes: int,
) -> Pairs:
    """
    Ask one plugin after the other, each on a thread.

    Raises:
        CredentialsError: One failed, or gave what is no metadata.
        MetadataTooLargeError: One gave more than `limit_bytes`.
    """
    pairs = EMPTY
    for plugin in plugins:
        metadata, problem = await _ask(plugin, context, executor)
        if problem is not None:
            text = problem.decode(errors="replace") if isinstance(problem, bytes) else problem
            raise CredentialsError(f"Getting metadata from plugin failed with error: {text}")
        try:
            pairs += encode_metadata(metadata, limit_bytes=limit_bytes)
        except MetadataTooLargeError:
            raise
        except Exception:
            # Not told why: the text of the error may hold what is secret.
            raise CredentialsError("Illegal metadata") from None
    return pairs


async def _ask(
    plugin: Plugin, context: AuthMetadataContext, executor: Executor
) -> tuple[Any, object]:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[Any, object]] = loop.create_future()

    def settle(metadata: Any, problem: object) -> None:
        if not answered.done():
            answered.set_result((metadata, problem))

    def answer(metadata: Any, problem: object) -> None:
        # The loop may be gone: a plugin takes its time.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, metadata, problem)

    run = contextvars.copy_context().run
    asking = loop.run_in_executor(executor, run, plugin, context, answer)
    try:
        return await answered
    finally:
        asking.cancel()


def _own_plugin(plugin: grpc.AuthMetadataPlugin) -> Plugin:
    def ask(context: AuthMetadataContext, answer: Answer) -> None:
        callback = _Callback(answer)
        try:
            plugin(context, callback)
        except Exception as error:
            callback.fail(error)

    return ask


class _Callback(grpc.AuthMetadataPluginCallback):
    """What a plugin calls, once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        # Guards the flag: a plugin may use several threads.
        self._lock = threading.Lock()
        self._is_called = False

    def __call__(self, metadata: Any, error: Exception | None) -> None:
        if not self._take_turn():
            raise RuntimeError("AuthMetadataPluginCallback invoked more than once!")
        self._answer(metadata, error)

    def fail(self, error: Exception) -> None:
        """Note that the plugin raised; no-op when it has called before."""
        if self._take_turn():
            self._answer(None, error)

    def _take_turn(self) -> bool:
        with self._lock:
            is_first, self._is_called = not self._is_called, True
        return is_first


def _find_in_core(inner: Any) -> tuple[Plugin, ...]:
    """Look into an object of grpcio's Cython layer; empty where nothing can be seen."""
    parts = getattr(inner, "_call_credentialses", None)
    if parts is not None:
        found = [_find_in_core(part) for part in parts]
        return tuple(plugin for each in found for plugin in each) if all(found) else ()
    wrapped = getattr(inner, "_metadata_plugin", None)
    return () if wrapped is None else (_core_plugin(wrapped),)


def _core_plugin(wrapped: Callable[..., None]) -> Plugin:
    """Ask a plugin as grpcio's Cython layer does."""

    def ask(context: AuthMetadataContext, answer: Answer) -> None:
        wrapped(
            context.service_url,
            context.method_name,
            lambda metadata, _status, details: answer(metadata, details),
        )

    return ask
