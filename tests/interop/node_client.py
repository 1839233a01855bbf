"""
The client of another language: `@grpc/grpc-js`, in a process that is told what to call.

Owns: the cases' terms in those of tests/e2e/node.py. All calls go to one process.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tests.e2e.node import NodeCall, NodeClient, node_client
from tests.interop.client import Outcome, Pairs


__all__ = ["JSCall", "JSClient"]

_PROTO: Final = Path(__file__).with_name("interop.proto")


class JSClient:
    """A `Client` in Node.js, on one of that process's channels."""

    def __init__(
        self,
        process: NodeClient,
        metadata: Pairs,
        numbers: Iterator[int],
        options: Mapping[str, Any],
    ) -> None:
        """`metadata` go with every call; `options` are the channel's."""
        self._process = process
        self._metadata = metadata
        self._numbers = numbers
        self._options = options

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, target: str, metadata: Pairs) -> AsyncIterator[JSClient]:
        """Run the process, with a channel to "host:port"."""
        async with node_client(target, _PROTO) as process:
            yield cls(process, metadata, itertools.count(1), {})

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncIterator[JSClient]:
        # Channels share connections unless told not to; the number is for this process only.
        options = {"grpc.use_local_subchannel_pool": 1, "number": next(self._numbers)}
        yield JSClient(self._process, self._metadata, self._numbers, options)

    async def run(
        self,
        method: MethodDescriptor,
        *requests: Message,
        metadata: Pairs | None = None,
        compression: grpc.Compression | None = None,
    ) -> Outcome:
        options = dict(self._options)
        if compression is not None:
            options["grpc.default_compression_algorithm"] = compression.value
        call = self._begin(
            method,
            None if method.client_streaming else _to_js(requests[0]),
            metadata=[*self._metadata, *(metadata or ())],
            options=options,
        )
        if method.client_streaming:
            for request in requests:
                await call.write(request)
            await call.half_close()
        return await call.end()

    async def open(self, method: MethodDescriptor, *, timeout_s: float | None = None) -> JSCall:
        return self._begin(
            method, metadata=self._metadata, deadline_s=timeout_s, options=self._options
        )

    def _begin(
        self, method: MethodDescriptor, request: dict[str, Any] | None = None, **opening: Any
    ) -> JSCall:
        name = f"{method.containing_service.full_name}/{method.name}"
        return JSCall(method, self._process.open(name, request, **opening))


class JSCall:
    """A `Call` in Node.js."""

    def __init__(self, method: MethodDescriptor, call: NodeCall) -> None:
        self._response_class = message_factory.GetMessageClass(method.output_type)
        self._call = call

    async def write(self, request: Message) -> None:
        self._call.write(_to_js(request))

    async def half_close(self) -> None:
        self._call.half_close()

    async def read(self) -> Message:
        return self._from_js(await self._call.message())

    async def cancel(self) -> None:
        self._call.cancel()

    async def end(self) -> Outcome:
        responses, status = await self._call.rest()
        return Outcome(
            responses=[self._from_js(response) for response in responses],
            code=status.code,
            details=status.details,
            initial=self._call.initial,
            trailing=status.metadata,
        )

    def _from_js(self, response: dict[str, Any]) -> Message:
        return json_format.ParseDict(response, self._response_class())


def _to_js(request: Message) -> dict[str, Any]:
    return json_format.MessageToDict(request, preserving_proto_field_name=True)
