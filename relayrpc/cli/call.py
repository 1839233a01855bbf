"""
`relayrpc call`: one call, with JSON in and out.

Owns: reading requests, printing responses, the exit code. Does not own: contracts (schema.py), how
the hub is reached (connection.py).
Source: docs/reference/cli.md.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from relayrpc.cli.connection import HUB_ADDRESS, HUB_SERVICE, CAFile, run_at
from relayrpc.cli.flags import IncludeFolders
from relayrpc.cli.table import as_text
from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS


if TYPE_CHECKING:
    from relayrpc.cli.schema import Method
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.rpc_error import RpcError


__all__ = ["call"]

_STDIN: Final = "-"
_STDIN_FD: Final = 0
_READ_BYTES: Final = 64 * 1024

_Metadata = list[tuple[str, str | bytes]]


def call(
    url: Annotated[str, typer.Argument(metavar="URL", help="The hub, and the address to call.")],
    method: Annotated[
        str, typer.Argument(metavar="SERVICE/METHOD", help="As in package.Service/Method.")
    ],
    request: Annotated[
        str | None,
        typer.Argument(
            metavar="[JSON]",
            help="The request; '-': read it from standard input, for a request stream one a line. "
            "Without it: {}, or '-' for a request stream.",
        ),
    ] = None,
    *,
    proto: Annotated[
        list[str] | None,
        typer.Option("--proto", metavar="FILE", help="A .proto file of the contract; repeatable."),
    ] = None,
    include: IncludeFolders = None,
    descriptor_set: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The contract as protoc's --descriptor_set_out made it."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "-H",
            "--header",
            metavar="KEY=VALUE",
            help="Metadata; base64 where the key ends in -bin; repeatable.",
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="How long the call may take; without: ever."),
    ] = None,
    tls_ca: CAFile = None,
) -> None:
    """
    Call a method with JSON, and print each response as a line of JSON.

    \b
    Example:
      relayrpc call relay://127.0.0.1:7350/contoso/greeter samples.Greeter/SayHello \\
        '{"name": "Ada"}' --deadline 5
      relayrpc call 'relay://127.0.0.1:7350/$hub' relayrpc.v1.Hub/List

    \b
    The hub tells the contract where hosts announced it. Else it comes from a file:
      relayrpc call relay://127.0.0.1:7350/contoso/greeter samples.Greeter/SayHello \\
        '{"name": "Ada"}' --proto greeter.proto

    \b
    Exit codes: the call's gRPC status; standard error tells more.
      0      OK
      1-16   the status: 5 NOT_FOUND, 14 UNAVAILABLE ...
      2      also when a flag, the contract or the request cannot be used,
      1      also when a response cannot be shown; both then say
             "relayrpc: ..." instead of "status: ..."
    """
    from relayrpc.cli.schema import load_method
    from relayrpc.endpoint.rpc_error import RpcError

    found = load_method(
        method, protos=proto or (), includes=include or (), descriptor_set=descriptor_set
    )
    metadata = [_metadatum(text) for text in header or ()]
    _check_metadata(metadata)
    job = _Job(method, found, request, metadata, deadline)
    try:
        run_at(url, job.run, tls_ca=tls_ca)
    except RpcError as error:
        _tell(error, job.method)


@dataclass(slots=True)
class _Job:
    """What was asked for."""

    name: str
    """Of the method, as in "package.Service/Method"."""
    method: Method | None
    """None until the hub has told."""
    request: str | None
    metadata: _Metadata
    deadline_s: float | None

    async def run(self, channel: Channel, address: str) -> None:
        """Do it."""
        left_s = self.deadline_s
        method = self.method
        if method is None:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            # As for the call itself, metadata goes before the URL.
            address = str(dict(self.metadata).get("relay-address", address))
            method = self.method = await _ask_for_method(channel, address, self.name, left_s)
            if left_s is not None:
                left_s = max(0.0, left_s - (loop.time() - began_s))
        one = None
        if not method.has_request_stream or self.request not in (None, _STDIN):
            one = await _one(method, self.request)
        await _call(channel, method, one, self.metadata, left_s)


async def _ask_for_method(
    channel: Channel, address: str, name: str, deadline_s: float | None
) -> Method:
    """
    Have the hub tell what a method looks like.

    Raises:
        ConfigError: No host announced it.
        RpcError: The hub cannot be asked, or nobody serves the service at the address.
    """
    from relayrpc.cli.schema import find_method, split_method
    from relayrpc.endpoint.rpc_error import RpcError
    from relayrpc.v1 import hub_pb2 as pb

    service, _ = split_method(name)
    ask = channel.unary_unary(
        f"/{HUB_SERVICE}/GetContract",
        pb.GetContractRequest.SerializeToString,
        pb.GetContractResponse.FromString,
    )
    try:
        answer = await ask(
            pb.GetContractRequest(address=address, service=service),
            timeout=deadline_s,
            metadata=(("relay-address", HUB_ADDRESS),),
        )
    except RpcError as error:
        if error.code().name != "NOT_FOUND":
            raise
        raise ConfigError(
            f"{error.details()}; pass it with --proto FILE or --descriptor-set FILE"
        ) from error
    return find_method(name, answer.descriptor_set)


async def _call(
    channel: Channel,
    method: Method,
    request: bytes | None,
    metadata: _Metadata,
    deadline_s: float | None,
) -> None:
    """
    Make the call and print what comes.

    Args:
        channel: To the address.
        method: What is called.
        request: The only one; None: they are lines of standard input.
        metadata: Of the call.
        deadline_s: From now on; None: no deadline.
    """
    start = getattr(channel, method.shape)(method.path)
    options = {"metadata": metadata, "timeout": deadline_s}
    if not method.has_request_stream:
        running = start(request, **options)
        sender = None
    else:
        running = start(**options)
        sender = asyncio.create_task(_send(running, method, request))
    try:
        if method.has_response_stream:
            async for response in running:
                typer.echo(method.decode(response))
        else:
            typer.echo(method.decode(await running))
    except asyncio.CancelledError:
        if sender is not None and sender.done() and not sender.cancelled():
            # What is wrong with the request, which the sender cancelled the call for.
            sender.result()
        raise
    finally:
        if sender is not None:
            sender.cancel()
            await asyncio.wait((sender,))
            if not sender.cancelled():
                # Taken note of: a call that is over lets nobody write any more.
                sender.exception()


async def _send(call: Any, method: Method, request: bytes | None) -> None:
    """Send the requests of a stream; what stops that on this side cancels the call."""
    try:
        if request is not None:
            await call.write(request)
        else:
            async for message in _stdin_messages(method):
                await call.write(message)
        await call.done_writing()
    except Exception:
        call.cancel()
        raise


async def _stdin_messages(method: Method) -> AsyncIterator[bytes]:
    """Yield a request for each line of standard input that is not empty, as they come."""
    number = 0
    async for line in _stdin_lines():
        number += 1
        if line.strip():
            yield method.encode(_text(line), f"line {number} of standard input")


async def _one(method: Method, request: str | None) -> bytes:
    """Read the one request of a call."""
    if request != _STDIN:
        return method.encode("{}" if request is None else request, "the request")
    bytes_max = DEFAULT_LIMITS.message_bytes_max
    lines: list[bytes] = []
    size = 0
    async for line in _stdin_lines():
        lines.append(line)
        size += len(line) + 1
        if size > bytes_max:
            raise ConfigError(f"the request on standard input is over {bytes_max} bytes")
    return method.encode(_text(b"\n".join(lines)), "standard input")


async def _stdin_lines() -> AsyncIterator[bytes]:
    """
    Yield lines of standard input as they come; no line is longer than a message may be.

    They are read in a thread that nobody waits for: the call may end before the input does.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
    has_room = threading.Semaphore(1)

    def read() -> None:
        # The loop may be over by the time that something comes; nothing is left waiting in it then.
        with suppress(RuntimeError):
            chunk = None
            while chunk != b"":
                has_room.acquire()
                chunk = b""
                with suppress(OSError):
                    chunk = os.read(_STDIN_FD, _READ_BYTES)
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    threading.Thread(target=read, name="relayrpc stdin", daemon=True).start()
    begun: list[bytes] = []
    size = 0
    bytes_max = DEFAULT_LIMITS.message_bytes_max
    while chunk := await chunks.get():
        has_room.release()
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join([*begun, end])
            begun.clear()
            size = 0
        begun.append(rest)
        size += len(rest)
        if size > bytes_max:
            raise ConfigError(f"a line of standard input is over {bytes_max} bytes")
    yield b"".join(begun)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8: {error.reason}") from error


def _metadatum(text: str) -> tuple[str, str | bytes]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise ConfigError(f"-H {text!r} is no metadata: write key=value")
    key = key.lower()
    if not key.endswith("-bin"):
        return key, value
    try:
        return key, base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ConfigError(f"-H {text!r}: a key that ends in -bin takes base64") from error


def _check_metadata(metadata: _Metadata) -> None:
    from grpc.aio import InternalError, UsageError

    from relayrpc.endpoint.metadata import MetadataTooLargeError, encode_invocation_metadata

    try:
        encode_invocation_metadata(metadata, limit_bytes=DEFAULT_LIMITS.metadata_bytes_max)
    except (InternalError, UsageError, MetadataTooLargeError) as error:
        raise ConfigError(f"-H: {error}") from error


def _tell(error: RpcError, method: Method | None) -> NoReturn:
    """
    Say on standard error how the call ended, and exit with its status.

    Args:
        error: Its end, or why there was none.
        method: What was called; None: the hub was asked about it, and nothing was called.
    """
    # A call was made: what this needs is loaded.
    from relayrpc.link.call import DETAILS_KEY

    code = error.code()
    origin, may_have_executed = error.origin, error.may_have_executed
    if method is None:
        origin = "hub" if origin == "host" else origin
        may_have_executed = False
    lines = [
        f"status: {code.name} ({code.value[0]})",
        f"details: {' '.join((error.details() or '').split())}",
        f"origin: {origin}",
        f"may_have_executed: {'true' if may_have_executed else 'false'}",
    ]
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and method is not None:
            lines += [f"detail: {detail}" for detail in method.decode_details(value)]
    for line in lines:
        typer.echo(as_text(line), err=True)
    raise typer.Exit(code.value[0])
