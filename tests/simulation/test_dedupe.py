"""
Goal: a call with a dedupe key runs at most once at a host instance, however often it is made, and
its caller gets the one outcome for as long as that instance lives; else it is told that it may have
run.

Method: hosts on virtual time that are lost, come back, are restarted or forget, callers that are
lost; the hosts' own record of what they ran is held against what callers were told. Hypothesis
draws who is cut off when, and for how long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relayrpc.aio
from relayrpc.limits import Limits
from relayrpc.testing import MemoryHub, VirtualLoop, memory_hub, run_virtual


ADDRESS = "contoso/payments"
WINDOW_S = 2.0
LIMITS = Limits(resume_window_s=WINDOW_S)
PAY = "/test.Payments/Pay"


@dataclass
class Record:
    """What hosts did."""

    runs: list[tuple[str, bytes]] = field(default_factory=list)
    """(host, request)."""
    cancelled: list[bytes] = field(default_factory=list)

    def count(self, request: bytes) -> int:
        return sum(what == request for _, what in self.runs)


@dataclass
class Scene:
    """Hosts and a caller on a hub."""

    hub: MemoryHub
    record: Record
    channel: relayrpc.aio.Channel
    servers: dict[str, relayrpc.aio.Server]

    async def add(self, host: str, **options: Any) -> relayrpc.aio.Server:
        """A request says how long it takes: b"invoice 1.5"."""

        async def pay(request: bytes, context: Any) -> bytes:
            self.record.runs.append((host, request))
            await context.send_initial_metadata((("host", host),))
            context.set_trailing_metadata((("paid-bin", b"\x00"),))
            try:
                await asyncio.sleep(float(request.split()[1]))
            except asyncio.CancelledError:
                self.record.cancelled.append(request)
                raise
            if request.startswith(b"busy"):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
            if request.startswith(b"refused"):
                await context.abort(grpc.StatusCode.ABORTED, "no funds")
            return b"%s for %s" % (host.encode(), request)

        async def watch(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            yield b"1"

        server = self.hub.server(ADDRESS, instance=host, **options)
        server.add_registered_method_handlers(
            "test.Payments",
            {
                "Pay": grpc.unary_unary_rpc_method_handler(pay),
                "Watch": grpc.unary_stream_rpc_method_handler(watch),
            },
        )
        await server.start()
        self.servers[host] = server
        return server

    def pay(self, request: bytes, key: str = "key", **options: Any) -> Any:
        metadata = (("relay-dedupe-key", key), *options.pop("metadata", ()))
        return self.channel.unary_unary(PAY)(request, metadata=metadata, **options)

    async def cut_off(self, peer: Any, *, after_s: float, for_s: float) -> None:
        """Cut a server or channel off; None: the host that has run something last."""
        await asyncio.sleep(after_s)
        with self.hub.cut_off(peer or self.servers[self.record.runs[-1][0]]):
            await asyncio.sleep(for_s)


@asynccontextmanager
async def scene(
    *, limits: Limits = LIMITS, hosts: tuple[str, ...] = ("first",), **channel_options: Any
) -> AsyncIterator[Scene]:
    async with memory_hub(limits=limits) as hub:
        on = Scene(hub, Record(), hub.channel(ADDRESS, **channel_options), {})
        for host in hosts:
            await on.add(host)
        yield on


async def told(call: Any) -> relayrpc.aio.RpcError:
    with pytest.raises(relayrpc.aio.RpcError) as error:
        await call
    return error.value


def run(main: Any) -> None:
    """On virtual time; nothing may be left."""

    async def checked() -> None:
        await main()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await asyncio.sleep(0)
        assert not loop.timers()

    run_virtual(checked)


# --- once ---


def test_second_call_with_the_same_key_gets_the_first_ones_outcome() -> None:
    async def main() -> None:
        async with scene() as on:
            first = on.pay(b"invoice 1")
            assert await first == b"first for invoice 1"
            second = on.pay(b"invoice 1")
            assert await second == b"first for invoice 1"
            assert on.record.runs == [("first", b"invoice 1")]
            for call in (first, second):
                assert (await call.initial_metadata())["host"] == "first"
                assert (await call.trailing_metadata())["paid-bin"] == b"\x00"

    run(main)


def test_call_joins_a_run_in_progress() -> None:
    async def main() -> None:
        async with scene() as on:
            calls = []
            for _ in range(3):
                calls.append(on.pay(b"invoice 5"))
                await asyncio.sleep(1.0)
            # One that does not want it any more does not take it from the others.
            calls[0].cancel()
            assert await asyncio.gather(*calls[1:]) == [b"first for invoice 5"] * 2
            assert on.record.count(b"invoice 5") == 1
            assert not on.record.cancelled

    run(main)


def test_failure_is_an_outcome_too() -> None:
    async def main() -> None:
        async with scene() as on:
            for _ in range(2):
                error = await told(on.pay(b"refused 1"))
                assert error.code() is grpc.StatusCode.ABORTED
                assert error.details() == "no funds"
            assert on.record.count(b"refused 1") == 1

    run(main)


def test_what_a_handler_says_is_not_asked_for_again() -> None:
    """As another call would have it, that may run twice."""

    async def main() -> None:
        async with scene() as on:
            call = on.pay(b"busy 0")
            assert (await told(call)).details() == "try later"
            assert call.attempts.count == 1

    run(main)


def test_keys_are_of_a_method_and_a_caller() -> None:
    async def main() -> None:
        async with scene() as on:
            other = on.hub.channel(ADDRESS)
            await on.pay(b"invoice 0")
            metadata = (("relay-dedupe-key", "key"),)
            await other.unary_unary(PAY)(b"invoice 0", metadata=metadata)
            assert on.record.count(b"invoice 0") == 2

    run(main)


def test_other_request_under_the_same_key_is_refused() -> None:
    async def main() -> None:
        async with scene() as on:
            await on.pay(b"invoice 0")
            error = await told(on.pay(b"invoice 00"))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert not error.may_have_executed
            assert on.record.count(b"invoice 00") == 0

    run(main)


def test_large_request_and_outcome_are_remembered() -> None:
    async def main() -> None:
        async with scene() as on:
            request = b"invoice 0 " + b"x" * 200_000
            assert await on.pay(request) == await on.pay(request)
            assert on.record.count(request) == 1

    run(main)


def test_same_key_goes_to_the_same_host() -> None:
    async def main() -> None:
        async with scene(hosts=("first", "second", "third")) as on:
            for number in range(12):
                request = b"invoice%d 0" % number
                answers = [await on.pay(request, str(number)) for _ in range(3)]
                assert len(set(answers)) == 1
                assert on.record.count(request) == 1
            assert len({host for host, _ in on.record.runs}) > 1

    run(main)


def test_plain_handlers_and_interceptors_are_remembered_too() -> None:
    class PassOn(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    ran: list[bytes] = []

    def pay(request: bytes, context: grpc.ServicerContext) -> bytes:
        ran.append(request)
        context.set_trailing_metadata((("paid", "yes"),))
        return request

    async def main() -> None:
        async with memory_hub() as hub:
            for name, interceptors in (("plain", ()), ("intercepted", (PassOn(),))):
                server = hub.server(f"at/{name}", interceptors=interceptors)
                handlers = {"Pay": grpc.unary_unary_rpc_method_handler(pay)}
                server.add_registered_method_handlers("test.Payments", handlers)
                await server.start()
                channel = hub.channel(f"at/{name}")
                for _ in range(2):
                    metadata = (("relay-dedupe-key", name),)
                    call = channel.unary_unary(PAY)(name.encode(), metadata=metadata)
                    assert await call == name.encode()
                    assert (await call.trailing_metadata())["paid"] == "yes"

    run(main)
    assert ran == [b"plain", b"intercepted"]


# --- who is lost ---


def test_caller_that_was_lost_joins_the_run() -> None:
    """Its link is gone; it calls again by the next one."""

    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.cut_off(on.channel, after_s=1.0, for_s=4.0))
            assert await on.pay(b"invoice 9", wait_for_ready=True) == b"first for invoice 9"
            assert on.record.count(b"invoice 9") == 1
            assert not on.record.cancelled
            await losing

    run(main)


@pytest.mark.parametrize("takes_s", [2, 9], ids=["has ended", "runs"])
def test_call_waits_for_its_host_to_come_back(takes_s: int) -> None:
    request = b"invoice %d" % takes_s

    async def main() -> None:
        async with scene(hosts=("first", "second")) as on:
            losing = asyncio.ensure_future(on.cut_off(None, after_s=1.0, for_s=WINDOW_S + 1.0))
            answer = await on.pay(request, wait_for_ready=True)
            ((host, _),) = on.record.runs
            assert answer == b"%s for %s" % (host.encode(), request)
            await losing

    run(main)


def test_instance_that_is_gone_is_told_and_no_other_runs_the_call() -> None:
    async def main() -> None:
        async with scene(hosts=("first", "second")) as on:
            losing = asyncio.ensure_future(on.cut_off(None, after_s=1.0, for_s=999.0))
            error = await told(on.pay(b"invoice 9"))
            ((host, _),) = on.record.runs
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert f"instance '{host}'" in (error.details() or "")
            assert error.may_have_executed
            losing.cancel()

    run(main)


def test_restarted_host_with_the_same_id_does_not_run_it_again() -> None:
    async def main() -> None:
        async with scene() as on:
            call = asyncio.ensure_future(on.pay(b"invoice 9", wait_for_ready=True).__await__())
            await asyncio.sleep(1.0)
            with on.hub.cut_off(on.servers["first"]):
                await on.servers["first"].stop(0)
                await on.add("first")
                error = await told(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "does not remember" in (error.details() or "")
            assert error.may_have_executed
            assert on.record.count(b"invoice 9") == 1

    run(main)


def test_host_of_an_older_version_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the call for an ordinary one, and would run it twice."""
    monkeypatch.setattr(relayrpc.aio.Server, "call_opened", relayrpc.aio.Server.start_call)

    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.cut_off(on.channel, after_s=1.0, for_s=4.0))
            error = await told(on.pay(b"invoice 9", wait_for_ready=True))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.may_have_executed
            assert on.record.count(b"invoice 9") == 1
            await losing

    run(main)


def test_options_that_turn_retries_off_leave_the_key() -> None:
    async def main() -> None:
        async with scene(options=[("grpc.enable_retries", 0)]) as on:
            losing = asyncio.ensure_future(on.cut_off(on.channel, after_s=1.0, for_s=4.0))
            call = on.pay(b"invoice 3")
            assert (await told(call)).may_have_executed
            await losing
            # Its program calls again, itself.
            assert await on.pay(b"invoice 3", wait_for_ready=True) == b"first for invoice 3"
            assert on.record.count(b"invoice 3") == 1

    run(main)


# --- the end of a run ---


def test_caller_that_cancels_takes_the_run_along() -> None:
    async def main() -> None:
        async with scene() as on:
            call = on.pay(b"invoice 9")
            await asyncio.sleep(1.0)
            call.cancel()
            await asyncio.sleep(1.0)
            assert on.record.cancelled == [b"invoice 9"]
            # That is its outcome: it may have done something.
            error = await told(on.pay(b"invoice 9"))
            assert error.code() is grpc.StatusCode.CANCELLED
            assert on.record.count(b"invoice 9") == 1

    run(main)


def test_deadline_holds_for_a_run_whose_caller_is_lost() -> None:
    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.cut_off(on.channel, after_s=1.0, for_s=60.0))
            error = await told(on.pay(b"invoice 99", timeout=20.0))
            assert error.may_have_executed
            await losing
            assert on.record.cancelled == [b"invoice 99"]

    run(main)


def test_run_without_a_deadline_is_not_waited_for_without_end() -> None:
    async def main() -> None:
        limits = replace(LIMITS, dedupe_s=30.0)
        async with scene(limits=limits) as on:
            losing = asyncio.ensure_future(on.cut_off(on.channel, after_s=1.0, for_s=20.0))
            assert (await told(on.pay(b"invoice 999"))).may_have_executed
            await losing
            assert not on.record.cancelled
            await asyncio.sleep(20.0)
            assert on.record.cancelled == [b"invoice 999"]
            error = await told(on.pay(b"invoice 999"))
            assert "has not come back" in (error.details() or "")

    run(main)


def test_refused_call_may_run_yet() -> None:
    """The host was full; that is no outcome."""

    async def main() -> None:
        async with scene(hosts=(), options=[("grpc.enable_retries", 0)]) as on:
            await on.add("first", maximum_concurrent_rpcs=1)
            running = on.pay(b"other 3", "other")
            await asyncio.sleep(1.0)
            error = await told(on.pay(b"invoice 0"))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not error.may_have_executed
            await running
            assert await on.pay(b"invoice 0") == b"first for invoice 0"

    run(main)


# --- what is kept ---


@pytest.mark.parametrize(
    "bounds",
    [{"dedupe_outcomes_max": 2}, {"dedupe_bytes_max": 1800}, {"dedupe_s": 5.0}],
    ids=lambda bounds: next(iter(bounds)),
)
def test_call_that_is_forgotten_fails_when_it_is_made_again(bounds: dict[str, Any]) -> None:
    async def main() -> None:
        async with scene(limits=replace(LIMITS, **bounds)) as on:
            call = asyncio.ensure_future(on.pay(b"invoice 2", wait_for_ready=True).__await__())
            await asyncio.sleep(1.0)
            other = on.hub.channel(ADDRESS)
            with on.hub.cut_off(on.channel):
                await asyncio.sleep(6.0)
                for number in range(4):
                    metadata = (("relay-dedupe-key", str(number)),)
                    await other.unary_unary(PAY)(b"other 0", metadata=metadata)
                if "dedupe_s" in bounds:
                    await asyncio.sleep(5.0)
            error = await told(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "does not remember" in (error.details() or "")
            assert error.may_have_executed
            assert on.record.count(b"invoice 2") == 1
            runs = on.servers["first"]._runs
            assert len(runs._ended) <= 4
            assert runs._kept_bytes <= LIMITS.dedupe_bytes_max

    run(main)


def test_outcome_that_is_too_large_is_known_to_have_been() -> None:
    async def main() -> None:
        async with scene(limits=replace(LIMITS, dedupe_bytes_max=1500)) as on:
            request = b"invoice 0 " + b"x" * 2000
            assert await on.pay(request) == b"first for %s" % request
            error = await told(on.pay(request))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.may_have_executed
            assert on.record.count(request) == 1

    run(main)


def test_streams_have_no_dedupe_key() -> None:
    async def main() -> None:
        async with scene() as on:
            metadata = (("relay-dedupe-key", "key"),)
            with pytest.raises(grpc.aio.UsageError, match="one request and one response"):
                on.channel.unary_stream("/test.Payments/Watch")(b"", metadata=metadata)
            # Called as if it had one response.
            watch = on.channel.unary_unary("/test.Payments/Watch")
            error = await told(watch(b"", metadata=metadata))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    run(main)


# --- everything at once ---


@dataclass(frozen=True)
class Loss:
    """Somebody is cut off for a while."""

    is_hosts: bool
    after_s: float
    for_s: float


LOSSES = st.builds(
    Loss,
    is_hosts=st.booleans(),
    after_s=st.floats(0.0, 8.0),
    for_s=st.floats(0.01, 6.0),
)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32),
    losses=st.lists(LOSSES, min_size=1, max_size=4),
    pauses=st.lists(st.floats(0.0, 4.0), min_size=1, max_size=10),
    restart_s=st.none() | st.floats(0.0, 8.0),
)
def test_no_key_runs_twice_at_an_instance(
    seed: int, losses: list[Loss], pauses: list[float], restart_s: float | None
) -> None:
    async def main() -> None:
        async with scene(hosts=("first", "second")) as on:
            await on.channel.channel_ready()
            restarted: set[str] = set()

            async def lose(loss: Loss) -> None:
                peer = on.servers["first"] if loss.is_hosts else on.channel
                await on.cut_off(peer, after_s=loss.after_s, for_s=loss.for_s)

            async def restart(after_s: float) -> None:
                await asyncio.sleep(after_s)
                await on.servers["first"].stop(0)
                restarted.add("first")
                await on.add("first", keep_trying=True)

            async def call(number: int, pause_s: float) -> None:
                await asyncio.sleep(0.5 * number)
                request = b"invoice%d %f" % (number, pause_s)
                outcome: bytes | relayrpc.aio.RpcError
                try:
                    outcome = await on.pay(request, str(number), timeout=30.0, wait_for_ready=True)
                except relayrpc.aio.RpcError as error:
                    outcome = error
                runs = Counter(host for host, what in on.record.runs if what == request)
                # The same id, but another instance: it knows nothing of what ran before.
                for host, count in runs.items():
                    assert count <= 1 + (host in restarted), (host, outcome)
                if isinstance(outcome, bytes):
                    assert runs[outcome.split()[0].decode()]
                    assert runs.total() == 1, "it was made again only where it was known"
                elif not outcome.may_have_executed:
                    assert not runs

            tasks = [asyncio.ensure_future(lose(loss)) for loss in losses]
            if restart_s is not None:
                tasks.append(asyncio.ensure_future(restart(restart_s)))
            await asyncio.gather(*[call(*each) for each in enumerate(pauses)])
            await asyncio.gather(*tasks)

    run_virtual(main, seed=seed)
