"""
Clients of Python: generated stubs on any `grpc.aio.Channel` or `grpc.Channel`.

Owns: each API's own ways of making calls. Whole calls pass iterators and await, iterate or use
`with_call`; calls step by step use read and write where there is such a style.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tests.interop import interop_pb2_grpc
from tests.interop.client import Outcome, Pairs, StatusLostError


__all__ = ["AioClient", "BlockingClient"]

_THREADS_COUNT: Final = 16
_LOST_STATUS: Final = "Internal error from Core"


def _multicallable(channel: Any, method: MethodDescriptor) -> Any:
    stub = getattr(interop_pb2_grpc, f"{method.containing_service.name}Stub")(channel)
    return getattr(stub, method.name)


def _pairs(metadata: Any) -> Pairs:
    return [(key, value) for key, value in metadata or ()]


# --- grpc.aio ---


class AioClient:
    """A `Client` with stubs on a `grpc.aio.Channel`."""

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel], metadata: Pairs) -> None:
        """`metadata` go with every call."""
        self._open_channel = open_channel
        self._metadata = metadata
        self._channel = open_channel()

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncIterator[AioClient]:
        async with AioClient(self._open_channel, self._metadata) as client:
            yield client

    async def __aenter__(self) -> AioClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def run(
        self,
        method: MethodDescriptor,
        *requests: Message,
        metadata: Pairs | None = None,
        compression: grpc.Compression | None = None,
    ) -> Outcome:
        call = _multicallable(self._channel, method)(
            _each(requests) if method.client_streaming else requests[0],
            metadata=[*self._metadata, *(metadata or ())],
            compression=compression,
        )
        responses = []
        with _ending(call):
            if method.server_streaming:
                async for response in call:
                    responses.append(response)  # noqa: PERF401  # what came before an error counts
            else:
                responses.append(await call)
        return await _outcome(call, responses)

    async def open(self, method: MethodDescriptor, *, timeout_s: float | None = None) -> AioCall:
        call = _multicallable(self._channel, method)(metadata=self._metadata, timeout=timeout_s)
        return AioCall(method, call)


class AioCall:
    """A `Call` in the style of read and write."""

    def __init__(self, method: MethodDescriptor, call: Any) -> None:
        self._method = method
        self._call = call

    async def write(self, request: Message) -> None:
        # What ends a call while it is written to is told at its end.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(request)

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def read(self) -> Any:
        return await self._call.read()

    async def cancel(self) -> None:
        assert self._call.cancel()

    async def end(self) -> Outcome:
        responses = []
        with _ending(self._call):
            if self._method.server_streaming:
                while (response := await self._call.read()) is not grpc.aio.EOF:
                    responses.append(response)
            else:
                responses.append(await self._call)
        return await _outcome(self._call, responses)


async def _each(requests: Sequence[Message]) -> AsyncIterator[Message]:
    for request in requests:
        yield request


@contextlib.contextmanager
def _ending(call: Any) -> Iterator[None]:
    """The call may fail inside, or have been cancelled."""
    try:
        yield
    except grpc.aio.AioRpcError:
        pass
    except asyncio.CancelledError:
        if not call.cancelled():
            raise


async def _outcome(call: Any, responses: list[Any]) -> Outcome:
    if await call.details() == _LOST_STATUS:
        raise StatusLostError
    return Outcome(
        responses=responses,
        code=await call.code(),
        details=await call.details(),
        initial=_pairs(await call.initial_metadata()),
        trailing=_pairs(await call.trailing_metadata()),
    )


# --- blocking grpc ---


class BlockingClient:
    """A `Client` with stubs on a `grpc.Channel`, used from several threads."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.Channel],
        metadata: Pairs,
        threads: ThreadPoolExecutor | None = None,
    ) -> None:
        """`metadata` go with every call; `threads` are those of the client this is another of."""
        self._open_channel = open_channel
        self._metadata = metadata
        self._channel = open_channel()
        self._threads = threads or ThreadPoolExecutor(_THREADS_COUNT)
        self._owns_threads = threads is None

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncIterator[BlockingClient]:
        async with BlockingClient(self._open_channel, self._metadata, self._threads) as client:
            yield client

    async def __aenter__(self) -> BlockingClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._on_thread(self._channel.close)
        if self._owns_threads:
            self._threads.shutdown()

    async def run(
        self,
        method: MethodDescriptor,
        *requests: Message,
        metadata: Pairs | None = None,
        compression: grpc.Compression | None = None,
    ) -> Outcome:
        options = {
            "metadata": [*self._metadata, *(metadata or ())],
            "compression": compression,
        }
        return await self._on_thread(self._run, method, requests, options)

    def _run(
        self, method: MethodDescriptor, requests: Sequence[Message], options: dict[str, Any]
    ) -> Outcome:
        multicallable = _multicallable(self._channel, method)
        argument = iter(requests) if method.client_streaming else requests[0]
        if method.server_streaming:
            return _outcome_now(multicallable(argument, **options))
        try:
            response, call = multicallable.with_call(argument, **options)
        except grpc.RpcError as error:
            return _outcome_of(error, [])
        return _outcome_of(call, [response])

    async def open(
        self, method: MethodDescriptor, *, timeout_s: float | None = None
    ) -> BlockingCall:
        multicallable = _multicallable(self._channel, method)
        begin = multicallable if method.server_streaming else multicallable.future
        requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        call = begin(iter(requests.get, None), metadata=self._metadata, timeout=timeout_s)
        return BlockingCall(call, requests, self._on_thread)

    async def _on_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


class BlockingCall:
    """A `Call` whose requests are iterated from a queue."""

    def __init__(self, call: Any, requests: queue.SimpleQueue[Message | None], on_thread: Any):
        self._call = call
        self._requests = requests
        self._on_thread = on_thread

    async def write(self, request: Message) -> None:
        self._requests.put(request)

    async def half_close(self) -> None:
        self._requests.put(None)

    async def read(self) -> Any:
        return await self._on_thread(next, self._call)

    async def cancel(self) -> None:
        self._call.cancel()

    async def end(self) -> Outcome:
        outcome = await self._on_thread(_outcome_now, self._call)
        self._requests.put(None)  # The thread that iterates is not left waiting.
        return outcome


def _outcome_now(call: Any) -> Outcome:
    responses = []
    with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
        if hasattr(call, "__next__"):
            for response in call:
                responses.append(response)  # noqa: PERF402  # what came before an error counts
        else:
            responses.append(call.result())
    return _outcome_of(call, responses)


def _outcome_of(call: Any, responses: list[Any]) -> Outcome:
    return Outcome(
        responses=responses,
        code=call.code(),
        details=call.details(),
        initial=_pairs(call.initial_metadata()),
        trailing=_pairs(call.trailing_metadata()),
    )
