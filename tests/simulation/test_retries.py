"""
Goal: a failed call is made again where that is safe, and nowhere else: no call runs twice that may
not, no caller is told that a call did not run that did, and nothing waits beyond its deadline.

Method: hosts on virtual time that are lost, stopped or full, with another host there or not; the
hosts' own record of what they ran is held against what callers were told. Hypothesis draws when
hosts are lost.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relayrpc.aio
from relayrpc.limits import Limits
from relayrpc.testing import MemoryHub, VirtualLoop, memory_hub, run_virtual
from tests.support.idempotent_contract import SERVICE


ADDRESS = "contoso/ledger"
WINDOW_S = 2.0
LIMITS = Limits(resume_window_s=WINDOW_S)
# Longer than the window, and than all attempts together.
LOST_S = 60.0


@dataclass
class Record:
    """What hosts ran: (host, what it was asked)."""

    runs: list[tuple[str, bytes]] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    """How many attempts there were before, as each handler was told."""
    collected: list[list[bytes]] = field(default_factory=list)

    def count(self, request: bytes) -> int:
        return sum(what == request for _, what in self.runs)


class Ledger:
    """One host's handlers; a request says how long it takes: b"key 1.5"."""

    def __init__(self, host: str, record: Record) -> None:
        self._host = host
        self._record = record

    async def run(self, request: bytes, context: Any) -> bytes:
        self._record.runs.append((self._host, request))
        metadata = dict(context.invocation_metadata())
        self._record.attempts.append(metadata.get("grpc-previous-rpc-attempts", ""))
        await asyncio.sleep(float(request.split()[1]))
        return self._host.encode()

    async def begin(self, request: bytes, context: Any) -> bytes:
        self._record.runs.append((self._host, request))
        await context.send_initial_metadata((("host", self._host),))
        await asyncio.sleep(float(request.split()[1]))
        return self._host.encode()

    async def list(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self._record.runs.append((self._host, request))
        count, pause_s = request.split()[1:]
        for number in range(int(count)):
            await asyncio.sleep(float(pause_s))
            yield str(number).encode()

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self._record.runs.append((self._host, b"collect"))
        seen: list[bytes] = []
        self._record.collected.append(seen)
        async for request in requests:
            seen.append(request)
        return self._host.encode()


def make_handlers(host: str, record: Record) -> dict[str, grpc.RpcMethodHandler]:
    ledger = Ledger(host, record)
    unary = grpc.unary_unary_rpc_method_handler(ledger.run)
    return {
        "Read": unary,
        "Write": unary,
        "Begin": grpc.unary_unary_rpc_method_handler(ledger.begin),
        "List": grpc.unary_stream_rpc_method_handler(ledger.list),
        "Collect": grpc.stream_unary_rpc_method_handler(ledger.collect),
    }


@dataclass
class Scene:
    """Hosts and a caller on a hub."""

    hub: MemoryHub
    record: Record
    channel: relayrpc.aio.Channel
    servers: dict[str, relayrpc.aio.Server]

    def unary(self, method: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    async def lose(self, host: str, after_s: float) -> None:
        """Lose a host for good, as its callers see it."""
        await asyncio.sleep(after_s)
        with self.hub.cut_off(self.servers[host]):
            await asyncio.sleep(LOST_S)

    async def add(self, host: str, **options: Any) -> None:
        server = self.hub.server(ADDRESS, instance=host, **options)
        server.add_registered_method_handlers(SERVICE, make_handlers(host, self.record))
        await server.start()
        self.servers[host] = server


@asynccontextmanager
async def scene(
    *, limits: Limits = LIMITS, hosts: tuple[str, ...] = ("first", "second"), **channel_options: Any
) -> AsyncIterator[Scene]:
    """The first host gets the calls; the others stand by."""
    async with memory_hub(limits=limits) as hub:
        on = Scene(hub, Record(), hub.channel(ADDRESS, **channel_options), {})
        for priority, host in enumerate(hosts):
            await on.add(host, priority=priority)
        yield on


async def told(call: Any) -> relayrpc.aio.RpcError:
    with pytest.raises(relayrpc.aio.RpcError) as error:
        await call
    return error.value


def config(method: str = "", **policy: Any) -> list[tuple[str, str]]:
    name = {"service": SERVICE, "method": method} if method else {"service": SERVICE}
    retry = {
        "maxAttempts": 3,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
        **policy,
    }
    text = json.dumps({"methodConfig": [{"name": [name], "retryPolicy": retry}]})
    return [("grpc.service_config", text)]


# --- what runs twice, and what does not ---


def test_idempotent_call_goes_to_another_host_when_its_host_is_lost() -> None:
    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            assert await on.unary("Read")(b"a 9") == b"second"
            assert on.record.runs == [("first", b"a 9"), ("second", b"a 9")]
            assert on.record.attempts == ["", "1"]
            losing.cancel()

    run_virtual(main)


@pytest.mark.parametrize("options", [(), config()], ids=["by itself", "by service config"])
def test_other_call_does_not_run_twice(options: Any) -> None:
    async def main() -> None:
        async with scene(options=options) as on:
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            error = await told(on.unary("Write")(b"a 9"))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.may_have_executed
            assert on.record.runs == [("first", b"a 9")]
            losing.cancel()

    run_virtual(main)


def test_call_that_was_refused_by_a_stopping_host_goes_to_another() -> None:
    """It was on its way when the host began to stop."""

    async def main() -> None:
        async with scene() as on:
            await on.channel.channel_ready()
            carrier = on.hub.carrier(on.servers["first"])
            carrier.delay(0.5, directions=["incoming"])
            call = on.unary("Write")(b"a 0")
            await asyncio.sleep(0.1)
            stopping = asyncio.ensure_future(on.servers["first"].stop(None))
            began_s = asyncio.get_running_loop().time()
            assert await call == b"second"
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.4, abs=0.01)
            assert on.record.runs == [("second", b"a 0")]
            await stopping

    run_virtual(main)


def test_call_that_the_only_host_refuses_is_told_so_at_once() -> None:
    async def main() -> None:
        async with scene(hosts=("only",)) as on:
            await on.channel.channel_ready()
            on.hub.carrier(on.servers["only"]).delay(0.5, directions=["incoming"])
            call = on.unary("Write")(b"a 0")
            await asyncio.sleep(0.1)
            stopping = asyncio.ensure_future(on.servers["only"].stop(None))
            began_s = asyncio.get_running_loop().time()
            error = await told(call)
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.4, abs=0.01)
            assert (error.details() or "").startswith("no host listens")
            assert not error.may_have_executed
            await stopping

    run_virtual(main)


@pytest.mark.parametrize("method", ["Unknown", "Write"])
def test_answer_that_will_not_change_is_told_at_once(method: str) -> None:
    """A method that no host has, and a request that its handler cannot read."""

    async def main() -> None:
        async with scene() as on:
            await on.channel.channel_ready()
            began_s = asyncio.get_running_loop().time()
            error = await told(on.unary(method)(b"nonsense"))
            assert asyncio.get_running_loop().time() - began_s < 0.01
            assert error.may_have_executed is (method == "Write")
            assert on.record.count(b"nonsense") == (method == "Write")

    run_virtual(main)


@pytest.mark.parametrize(("held_s", "is_free_in_time"), [(0.9, True), (9.0, False)])
def test_full_host_is_asked_once_more_when_it_said(held_s: float, is_free_in_time: bool) -> None:
    async def main() -> None:
        async with scene(hosts=()) as on:
            await on.add("only", maximum_concurrent_rpcs=1)
            holding = asyncio.ensure_future(on.unary("Write")(f"a {held_s}".encode()))
            await asyncio.sleep(0.1)
            began_s = asyncio.get_running_loop().time()
            call = on.unary("Write")(b"b 0")
            if is_free_in_time:
                assert await call == b"only"
            else:
                error = await told(call)
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert not error.may_have_executed
            assert 1.0 <= asyncio.get_running_loop().time() - began_s <= 1.21
            await holding

    run_virtual(main)


def test_call_that_was_waiting_for_its_lost_link_is_made_on_the_next() -> None:
    async def main() -> None:
        async with scene() as on:
            await on.unary("Write")(b"a 0")
            with on.hub.cut_off(on.channel):
                await asyncio.sleep(1.0)
                call = on.unary("Write")(b"b 0")
                await asyncio.sleep(WINDOW_S)
            assert await call == b"first"
            assert on.record.count(b"b 0") == 1

    run_virtual(main)


def test_missing_host_is_told_in_one_round_trip() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with scene(hosts=()) as on:
            await on.channel.channel_ready()
            before_s = loop.time()
            error = await told(on.unary("Read")(b"a 0"))
            assert "no host listens" in (error.details() or "")
            assert not error.may_have_executed
            assert loop.time() - before_s < 0.01

    run_virtual(main)


def test_service_config_waits_for_a_host_that_comes() -> None:
    async def main() -> None:
        async with scene(hosts=(), options=config("Write")) as on:
            call = on.unary("Write")(b"a 0")
            await asyncio.sleep(0.2)
            await on.add("late")
            assert await call == b"late"
            assert on.record.attempts == ["2"]

    run_virtual(main)


def test_truth_about_the_first_attempt_outlives_the_last() -> None:
    """The last attempts found no host and did not run; the first one did."""

    async def main() -> None:
        async with scene(hosts=("only",)) as on:
            losing = asyncio.ensure_future(on.lose("only", 1.0))
            error = await told(on.unary("Read")(b"a 9"))
            assert "no host listens" in (error.details() or "")
            assert error.may_have_executed
            assert on.record.count(b"a 9") == 1
            losing.cancel()

    run_virtual(main)


def test_options_turn_it_off() -> None:
    async def main() -> None:
        options = [("grpc.enable_retries", 0), *config()]
        async with scene(options=options) as on:
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            assert (await told(on.unary("Read")(b"a 9"))).may_have_executed
            assert on.record.count(b"a 9") == 1
            losing.cancel()

    run_virtual(main)


# --- streams ---


def test_response_that_has_begun_is_not_begun_again() -> None:
    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.lose("first", 1.5))
            seen = []
            with pytest.raises(relayrpc.aio.RpcError):
                async for message in on.channel.unary_stream(f"/{SERVICE}/List")(b"a 9 1.0"):
                    seen.append(message)
            assert seen == [b"0"]
            assert on.record.count(b"a 9 1.0") == 1
            losing.cancel()

    run_virtual(main)


def test_call_whose_initial_metadata_came_is_not_begun_again() -> None:
    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            call = on.unary("Begin")(b"a 9")
            assert (await told(call)).may_have_executed
            assert (await call.initial_metadata())["host"] == "first"
            assert on.record.count(b"a 9") == 1
            losing.cancel()

    run_virtual(main)


def test_response_stream_that_has_not_begun_is_made_again() -> None:
    async def main() -> None:
        async with scene() as on:
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            call = on.channel.unary_stream(f"/{SERVICE}/List")(b"a 2 5.0")
            assert [message async for message in call] == [b"0", b"1"]
            assert [host for host, _ in on.record.runs] == ["first", "second"]
            losing.cancel()

    run_virtual(main)


@pytest.mark.parametrize("size", [1, 40_000])
def test_requests_that_were_sent_are_sent_again_in_order(size: int) -> None:
    requests = [str(number).encode() * size for number in range(4)]

    async def main() -> None:
        async with scene() as on:
            call = on.channel.stream_unary(f"/{SERVICE}/Collect")()
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            for request in requests:
                await call.write(request)
                # The third falls between the attempts.
                await asyncio.sleep(WINDOW_S / 2 + 0.52)
            await call.done_writing()
            assert await call == b"second"
            assert on.record.collected[1] == requests
            losing.cancel()

    run_virtual(main)


def test_requests_beyond_what_is_kept_end_with_their_host() -> None:
    async def main() -> None:
        async with scene(limits=Limits(resume_window_s=WINDOW_S, retry_request_bytes_max=8)) as on:
            call = on.channel.stream_unary(f"/{SERVICE}/Collect")()
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            await call.write(b"x" * 5)
            await call.write(b"x" * 5)
            assert (await told(call)).may_have_executed
            assert on.channel.retries is not None
            assert on.channel.retries.kept_bytes == 0
            losing.cancel()

    run_virtual(main)


# --- bounds ---


def test_deadline_is_not_waited_for_in_vain() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with scene(hosts=(), options=config(initialBackoff="9s", maxBackoff="9s")) as on:
            before_s = loop.time()
            error = await told(on.unary("Write")(b"a 0", timeout=5))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert loop.time() - before_s < 1.0

    run_virtual(main)


def test_attempts_end_with_the_deadline() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with scene() as on:
            await on.channel.channel_ready()
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            before_s = loop.time()
            error = await told(on.unary("Read")(b"a 9", timeout=6.0))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert loop.time() - before_s == pytest.approx(6.0, abs=0.05)
            assert on.record.count(b"a 9") == 2
            losing.cancel()

    run_virtual(main)


def test_service_config_bounds_the_time_and_waits() -> None:
    text = {"methodConfig": [{"name": [{}], "timeout": "3s", "waitForReady": True}]}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with scene(hosts=(), options=[("grpc.service_config", json.dumps(text))]) as on:
            await on.channel.channel_ready()
            for timeout_s, wait_s in ((None, 3.0), (5.0, 3.0), (1.0, 1.0)):
                before_s = loop.time()
                error = await told(on.unary("Write")(b"a 0", timeout=timeout_s))
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert loop.time() - before_s == pytest.approx(wait_s, abs=0.05)
            error = await told(on.unary("Write")(b"a 0", wait_for_ready=False))
            assert error.code() is grpc.StatusCode.UNAVAILABLE

    run_virtual(main)


def test_throttled_channel_does_not_call_again_until_calls_succeed() -> None:
    text = json.loads(config(maxAttempts=5)[0][1])
    text["retryThrottling"] = {"maxTokens": 4, "tokenRatio": 1}

    async def main() -> None:
        options = [("grpc.service_config", json.dumps(text))]
        async with scene(hosts=(), options=options) as on:
            retries = on.channel.retries
            assert retries is not None
            assert retries.throttle is not None
            await told(on.unary("Write")(b"a 0"))
            assert retries.throttle.tokens == 2
            await told(on.unary("Write")(b"b 0"))
            assert retries.throttle.tokens == 1
            await on.add("late")
            for _ in range(9):
                await on.unary("Write")(b"c 0")
            assert retries.throttle.tokens == 4

    run_virtual(main)


def test_pushback_says_when() -> None:
    """The first answer asks for 7 s, the second not to be called again."""
    asked = iter(["7000", "-1"])

    async def refuse(_request: bytes, context: Any) -> bytes:
        times.append(asyncio.get_running_loop().time())
        trailing = (("grpc-retry-pushback-ms", next(asked)),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "later", trailing)

    times: list[float] = []

    async def main() -> None:
        async with scene(hosts=()) as on:
            server = on.hub.server(ADDRESS)
            handler = grpc.unary_unary_rpc_method_handler(refuse)
            server.add_registered_method_handlers(SERVICE, {"Read": handler})
            await server.start()
            assert (await told(on.unary("Read")(b""))).details() == "later"
            assert len(times) == 2
            assert 7.0 <= times[1] - times[0] <= 7.0 * 1.2 + 0.01

    run_virtual(main)


def test_no_more_calls_wait_for_an_attempt_than_may() -> None:
    async def main() -> None:
        limits = Limits(resume_window_s=WINDOW_S, retries_waiting_max=3)
        async with scene(limits=limits, hosts=(), options=config()) as on:
            await on.channel.channel_ready()
            calls = [on.unary("Write")(b"a 0") for _ in range(5)]
            await asyncio.sleep(0.05)
            assert [call.done() for call in calls].count(True) == 2
            await on.add("late")
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert results.count(b"late") == 3

    run_virtual(main)


# --- nothing is left ---


@pytest.mark.parametrize("end", ["cancel", "task", "close", "grace"])
def test_call_between_attempts_can_be_ended(end: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with scene(hosts=(), options=config(initialBackoff="50s", maxBackoff="50s")) as on:
            await on.channel.channel_ready()
            call = on.unary("Write")(b"a 0")
            awaiting = asyncio.ensure_future(call.__await__())
            await asyncio.sleep(1.0)
            assert call.is_between_attempts
            match end:
                case "cancel":
                    call.cancel()
                case "task":
                    awaiting.cancel()
                case "close":
                    await on.channel.close()
                case "grace":
                    await on.channel.close(2.0)
            with pytest.raises(asyncio.CancelledError):
                await awaiting
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert on.channel.retries is not None
            assert on.channel.retries.waiting_count == 0
        await asyncio.sleep(0)
        assert not loop.timers()

    run_virtual(main)


# --- everything at once ---


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    losses=st.lists(st.floats(0.0, 6.0), min_size=1, max_size=3),
    pauses=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=12),
    is_cut=st.booleans(),
)
def test_no_call_runs_twice_that_may_not(
    seed: int, losses: list[float], pauses: list[float], is_cut: bool
) -> None:
    async def main() -> None:
        hosts = tuple(f"host{number}" for number in range(4))
        async with scene(hosts=hosts) as on:
            losing = [
                asyncio.ensure_future(on.lose(host, after_s))
                for host, after_s in zip(hosts, losses, strict=False)
            ]

            async def call(number: int, pause_s: float) -> None:
                await asyncio.sleep(0.4 * number)
                method = ("Read", "Write")[number % 2]
                request = f"{number} {pause_s}".encode()
                outcome: bytes | relayrpc.aio.RpcError
                try:
                    outcome = await on.unary(method)(request)
                except relayrpc.aio.RpcError as error:
                    outcome = error
                runs = Counter(host for host, what in on.record.runs if what == request)
                if method == "Write":
                    assert runs.total() <= 1
                if isinstance(outcome, bytes):
                    assert runs[outcome.decode()] == 1
                elif not outcome.may_have_executed:
                    assert not runs

            calling = [call(number, pause_s) for number, pause_s in enumerate(pauses)]
            if is_cut:
                losing.append(asyncio.ensure_future(_cut_often(on)))
            await asyncio.gather(*calling)
            for task in losing:
                task.cancel()

    run_virtual(main, seed=seed)


def test_iterator_that_runs_ahead_between_attempts_ends_the_call() -> None:
    """As requests from a thread do, that no one can make wait."""

    async def main() -> None:
        async with scene(limits=Limits(resume_window_s=WINDOW_S, retry_request_bytes_max=8)) as on:
            call = on.channel.stream_unary(f"/{SERVICE}/Collect")()
            losing = asyncio.ensure_future(on.lose("first", 1.0))
            core = call.core
            while not core.is_between_attempts:
                await asyncio.sleep(0.01)
            core.send_bytes(b"x" * 5)
            assert not call.done()
            core.send_bytes(b"x" * 5)
            error = await told(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.may_have_executed
            losing.cancel()

    run_virtual(main)


async def _cut_often(on: Scene) -> None:
    """The caller's connection breaks, and its link resumes."""
    while True:
        await asyncio.sleep(0.7)
        if on.channel.live.carrier is not None:
            on.hub.carrier(on.channel).cut()
