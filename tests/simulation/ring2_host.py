"""
The second ring's servicers: generated, ordinary, and keeping their own record of what they did.

Source: samples/greeter/greeter.proto; ring2_calls.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc
from tests.simulation.ring2_calls import ABORT_CODE, Record, text_of


__all__ = ["AsyncGreeter", "HandlerError", "PlainGreeter"]


class HandlerError(Exception):
    """What a handler raises that is meant to fail."""


class _Recorder:
    """What both servicers share: finding the record of a call, and writing into it."""

    def __init__(self, instance: str, address: str, records: dict[str, Record]) -> None:
        self._instance = instance
        self._address = address
        self._records = records

    @contextlib.contextmanager
    def _serve(self, context: Any) -> Iterator[Record]:
        metadata = context.invocation_metadata()
        keys = [value for name, value in metadata if name == "sim-key"]
        assert len(keys) == 1, f"metadata changed on the way: {metadata}"
        record = self._records[keys[0]]
        assert record.plan.address == self._address, f"came to {self._address}: {record}"
        binary = [value for name, value in metadata if name == "sim-key-bin"]
        assert binary == [b"\x00\xff", keys[0].encode()], f"binary metadata changed: {metadata}"
        record.instances.append(self._instance)
        try:
            yield record
        except asyncio.CancelledError:
            record.handler_end = "cancelled"
            raise
        except grpc.aio.AbortError:
            record.handler_end = "aborted"
            raise
        except HandlerError:
            record.handler_end = "raised"
            raise
        except GeneratorExit:
            record.handler_end = "closed"
            raise
        except BaseException as exc:
            record.handler_end = f"broke: {exc!r}"
            raise
        else:
            record.handler_end = "returned"

    def _check_request(self, record: Record, text: str) -> None:
        expected = text_of(record.plan, "request", record.requests_read)
        assert text == expected, f"request {record.requests_read} is {text[:40]!r}: {record}"
        record.requests_read += 1

    def _next_response(self, record: Record) -> str:
        text = text_of(record.plan, "response", record.responses_sent)
        record.responses_sent += 1
        return text

    def _trailers(self, record: Record) -> tuple[tuple[str, str | bytes], ...]:
        key = record.plan.key
        return (("sim-key", key), ("sim-key-bin", b"\x00\xff" + key.encode()))


class AsyncGreeter(_Recorder, greeter_pb2_grpc.GreeterServicer):
    """Every method `async def`; streams by generator or by read() and write()."""

    async def SayHello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        with self._serve(context) as record:
            self._check_request(record, request.name)
            await self._begin(record, context)
            await self._pause(record)
            await self._end(record, context)
            return pb.HelloReply(message=self._next_response(record))

    async def ListGreetings(
        self, request: pb.ListGreetingsRequest, context: Any
    ) -> AsyncIterator[pb.HelloReply]:
        with self._serve(context) as record:
            self._check_request(record, request.name)
            await self._begin(record, context)
            for number in range(len(record.plan.responses)):
                await self._pause(record)
                yield pb.HelloReply(message=self._next_response(record), number=number)
            await self._end(record, context)

    async def CollectNames(
        self, requests: AsyncIterator[pb.HelloRequest], context: Any
    ) -> pb.HelloReply:
        with self._serve(context) as record:
            await self._begin(record, context)
            if record.plan.uses_iterator:
                async for request in requests:
                    self._check_request(record, request.name)
                    if record.plan.ending == "early":
                        break
                    await self._pause(record)
                else:
                    record.is_eof_read = True
            else:
                while (request := await context.read()) is not grpc.aio.EOF:
                    self._check_request(record, request.name)
                    if record.plan.ending == "early":
                        break
                    await self._pause(record)
                else:
                    record.is_eof_read = True
            await self._end(record, context)
            return pb.HelloReply(message=self._next_response(record))

    async def Chat(self, requests: AsyncIterator[pb.ChatLine], context: Any) -> Any:
        """Read and write at the same time; ends when both are done."""
        with self._serve(context) as record:
            await self._begin(record, context)
            reading = asyncio.ensure_future(self._read_lines(record, requests))
            try:
                for _ in record.plan.responses:
                    await self._pause(record)
                    await context.write(pb.ChatLine(text=self._next_response(record)))
                if record.plan.ending != "early":
                    await reading
            finally:
                if not reading.done():
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reading
            await self._end(record, context)

    async def _read_lines(self, record: Record, requests: AsyncIterator[pb.ChatLine]) -> None:
        async for request in requests:
            self._check_request(record, request.text)
            await self._pause(record)
        record.is_eof_read = True

    async def _begin(self, record: Record, context: Any) -> None:
        if record.plan.has_initial_metadata:
            await context.send_initial_metadata(self._trailers(record))

    async def _pause(self, record: Record) -> None:
        if record.plan.host_pause_s:
            await asyncio.sleep(record.plan.host_pause_s)

    async def _end(self, record: Record, context: Any) -> None:
        if record.plan.ending == "hang":
            await asyncio.get_running_loop().create_future()
        if record.plan.ending == "raise":
            raise HandlerError
        if record.plan.ending == "abort":
            await context.abort(ABORT_CODE, f"no {record.plan.key}", self._trailers(record))


class PlainGreeter(AsyncGreeter):
    """Plain `def` where the requests are one message: those run in an executor."""

    def SayHello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:  # type: ignore[override]  # plain
        with self._serve(context) as record:
            self._check_request(record, request.name)
            self._begin_plain(record, context)
            self._end_plain(record, context)
            return pb.HelloReply(message=self._next_response(record))

    def ListGreetings(  # type: ignore[override]  # plain
        self, request: pb.ListGreetingsRequest, context: Any
    ) -> Iterator[pb.HelloReply]:
        with self._serve(context) as record:
            self._check_request(record, request.name)
            self._begin_plain(record, context)
            for number in range(len(record.plan.responses)):
                yield pb.HelloReply(message=self._next_response(record), number=number)
            self._end_plain(record, context)

    def _begin_plain(self, record: Record, context: Any) -> None:
        if record.plan.has_initial_metadata:
            context.send_initial_metadata(self._trailers(record))

    def _end_plain(self, record: Record, context: Any) -> None:
        if record.plan.ending == "raise":
            raise HandlerError
        if record.plan.ending == "abort":
            context.abort(ABORT_CODE, f"no {record.plan.key}", self._trailers(record))
