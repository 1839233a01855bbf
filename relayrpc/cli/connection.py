"""
How commands reach a hub: one channel to what a URL names, on a loop of their own.

Owns: making the channel, and what a failed call becomes for those commands whose exit code is not
its status. Does not own: what is called.
Source: docs/reference/cli.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from relayrpc.errors import ConfigError, ConnectError, RelayError


if TYPE_CHECKING:
    from relayrpc.carrier.url import RelayURL
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.rpc_error import RpcError


__all__ = ["DEFAULT_URL", "HUB_ADDRESS", "HUB_SERVICE", "CAFile", "run_at", "run_at_hub"]

DEFAULT_URL = "relay://127.0.0.1:7350"
HUB_ADDRESS = "$hub"
HUB_SERVICE = "relayrpc.v1.Hub"

CAFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tls-ca", metavar="FILE", help="Certificates to trust instead of the system's, PEM."
    ),
]

_T = TypeVar("_T")


def run_at(
    url: str, work: Callable[[Channel, str], Awaitable[_T]], *, tls_ca: str | None
) -> _T:
    """
    Run what needs a channel to the address that a URL names; `work` gets that too, empty when
    there is none.

    Raises:
        ConfigError: The URL cannot be used.
        RpcError: As `work` lets it out.
    """
    from relayrpc.carrier.url import parse_url

    parsed = parse_url(url)
    return _run(parsed, parsed.address, lambda channel: work(channel, parsed.address), tls_ca)


def run_at_hub(
    url: str, work: Callable[[Channel, str], Awaitable[_T]], *, tls_ca: str | None
) -> _T:
    """
    Run what needs a channel to the hub itself, whatever address its URL names; `work` gets that
    too, empty when there is none.

    Raises:
        ConfigError: The URL cannot be used.
        ConnectError: The hub cannot be reached.
        RelayError: The hub said no.
    """
    from relayrpc.carrier.url import parse_url
    from relayrpc.endpoint.rpc_error import RpcError

    parsed = parse_url(url)
    address = "" if parsed.address == HUB_ADDRESS else parsed.address
    try:
        return _run(parsed, HUB_ADDRESS, lambda channel: work(channel, address), tls_ca)
    except RpcError as error:
        raise _told(error) from error


def _told(error: RpcError) -> RelayError:
    name = error.code().name
    if error.origin == "caller" and name == "UNAVAILABLE":
        return ConnectError(f"{error.details()}; is a hub running there?")
    if name in ("UNIMPLEMENTED", "UNAVAILABLE"):
        return RelayError(f"{error.details()} ({name}); the hub may be older or stopping")
    return RelayError(f"{error.details()} ({name})")


def _run(
    url: RelayURL, address: str, work: Callable[[Channel], Awaitable[_T]], tls_ca: str | None
) -> _T:
    from relayrpc.carrier.tls import TLSOptions
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.live_link import LiveLink
    from relayrpc.limits import DEFAULT_LIMITS

    if tls_ca is not None and not url.is_secure:
        raise ConfigError(f"--tls-ca has no use for {url}; write relays:// or wss://")

    async def main() -> _T:
        tls = None if tls_ca is None else TLSOptions(ca_file=tls_ca)
        live = LiveLink([url], limits=DEFAULT_LIMITS, tls=tls)
        async with Channel(live, address=address) as channel:
            return await work(channel)

    # What goes wrong ends the command and is said then.
    logging.getLogger("relayrpc").addHandler(logging.NullHandler())
    return asyncio.run(main())
