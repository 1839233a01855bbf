"""
The second ring of the simulation: the real asynchronous classes, hub to stub, under one seed.

What `relayrpc hub` runs behind its doors and what users run in their processes lives on one
virtual-time loop: sessions, drivers, live links, servers with generated servicers, channels with
generated stubs. Only sockets are outside. Carriers break, hubs and hosts come and go; then all
heals, everything must get on, every promise is checked, and nothing may be left.
Source: DESIGN.md decision 6; docs/adr/0005-simulation.md.

    python -m tests.simulation.ring2 17
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import grpc.aio

from relayrpc.carrier.url import parse_url
from relayrpc.contract.descriptors import collect
from relayrpc.contract.options import ContractOptions, OperationOptions
from relayrpc.endpoint.attempts import make_retries
from relayrpc.endpoint.callbacks import CallbackServer
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.instances import ServiceBehavior
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.options import read_options
from relayrpc.endpoint.server import Server
from relayrpc.endpoint.throttle import Throttle
from relayrpc.errors import ConnectError, LinkRefusedError
from relayrpc.limits import DEFAULT_LIMITS, KIB, Limits
from relayrpc.observe.logs import EventText
from relayrpc.testing.virtual_time import InlineExecutor, VirtualLoop
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from tests.simulation.ring2_callbacks import (
    Errands,
    Heard,
    add_porter,
    add_watcher,
    check_lines,
    run_errand,
)
from tests.simulation.ring2_caller import make_call
from tests.simulation.ring2_calls import (
    ADDRESS_ASYNC,
    ADDRESS_PLAIN,
    SHAPES,
    Plan,
    Record,
    Shape,
    check_end,
    check_truth,
    draw_plan,
)
from tests.simulation.ring2_host import AsyncGreeter, PlainGreeter
from tests.simulation.ring2_network import HubSessions, Network
from tests.simulation.ring2_one_way import Ledger, add_clerk, remark
from tests.simulation.ring2_sessions import (
    Conversation,
    add_listener,
    add_notebook,
    converse,
)
from tests.simulation.ring2_throttles import (
    Passage,
    add_gate,
    check_bounds,
    check_idle,
    draw_throttle,
    pass_gate,
)


__all__ = [
    "Channel",
    "HubSessions",
    "LiveLink",
    "Result",
    "Server",
    "World",
    "run_seed",
    "run_world",
]

_ADDRESSES: Final = (ADDRESS_ASYNC, ADDRESS_PLAIN)
_GREETER: Final = "samples.greeter.v1.Greeter"
# One call in a world where nothing is slow; an ack on its own may be waited for.
_PROBE_S: Final = 0.5
# In virtual seconds: far above what any seed needs, far below the loop's own bound.
_PROGRESS_S: Final = 1800.0
_GOODBYE_S: Final = 6.0
# Ordinary worlds take some thousand turns and some hundred seconds.
_TURNS_MAX: Final = 150_000
_TIME_S_MAX: Final = 20_000.0
_LINES_SHOWN: Final = 60
_GOODBYES_MAX: Final = 100
# Longer than what is stalled takes to go on; and where calls inside of calls may wait for
# each other's room, until the first of them has waited enough.
_CALLBACK_TIMEOUT_S: Final = 200.0
_TIGHT_CALLBACK_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Result:
    """What is left of a world that kept its promises."""

    digest: str
    """Hash of everything that happened; equal for equal seeds."""
    seen: Counter[str]
    """How often things happened, for the proof that seeds reach what they should."""
    lines: list[str]

    def trace_text(self, about: str, count: int) -> str:
        """The last `count` lines that hold a text."""
        return "\n".join([line for line in self.lines if about in line][-count:])


def run_seed(seed: int) -> None:
    """
    Run one world.

    Raises:
        AssertionError: A promise was broken; the text names the seed and ends with what happened
            last.
    """
    run_world(seed)


def run_world(seed: int) -> Result:
    """As `run_seed`; returns what happened."""
    is_collecting = gc.isenabled()
    gc.disable()
    # What is here already is neither looked through nor mistaken for ours.
    gc.freeze()
    try:
        result = _run(seed)
        gc.collect()
        _check_garbage(seed)
        return result
    finally:
        gc.unfreeze()
        if is_collecting:
            gc.enable()


def _run(seed: int) -> Result:
    rng = random.Random(f"ring2 {seed}")
    loop = VirtualLoop(
        rng=random.Random(rng.getrandbits(32)),
        turns_max=_TURNS_MAX,
        time_s_max=_TIME_S_MAX,
        executor_delay_s=random.Random(rng.getrandbits(32)).random,
    )
    log = _Log()
    try:
        world = World(loop, rng, log)
        trace = world.network.trace
        try:
            loop.run_until_complete(world.run())
            loop.run_until_complete(loop.shutdown_asyncgens())
            # Tasks and futures whose exception nobody took speak up when they are collected.
            gc.collect()
            _check_loop(loop)
        except Exception as exc:
            lines = "\n".join([*list(trace.lines)[-_LINES_SHOWN:], *log.lines])
            raise AssertionError(f"seed {seed} of ring 2: {exc!r}\n{lines}") from exc
        return Result(trace.digest(), trace.seen, list(trace.lines))
    finally:
        log.close()
        _abandon(loop)


def _check_garbage(seed: int) -> None:
    """Of the relay's own objects none outlives its world."""
    left = Counter(
        type(each).__name__
        for each in gc.get_objects()
        if type(each).__module__.startswith(("relayrpc.", "tests.simulation.ring2"))
        # What contracts and servicer classes say is the process's, as their code is.
        and not isinstance(each, Result | ContractOptions | OperationOptions | ServiceBehavior)
    )
    assert not left, f"seed {seed} of ring 2: objects are left: {dict(left)}"


def _check_loop(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    assert not tasks, f"tasks are left: {tasks}"
    timers = loop.timers()
    assert not timers, f"timers are left: {timers}"
    assert not loop.complaints, f"the loop complains: {loop.complaints}"


def _abandon(loop: VirtualLoop) -> None:
    """Let go of a world, also of one that failed half way."""
    loop.set_exception_handler(lambda *_: None)
    loop.complaints.clear()
    for _ in range(_GOODBYES_MAX):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.turns_count = 0
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.0))
    loop.close()


class _Log(logging.Handler):
    """Collects what the relay logs as a warning or worse, and what comes and goes at hubs."""

    _EXPECTED: Final = re.compile(
        "handler of /|no link to|call failed |one-way call lost |carrier refused "
        "|hub drain cut short |a callback to one of many failed"
        # A host was away, or had no room; what it says is never wrong.
        '|records held back |contract unknown .* reason="[A-Z_]+: '
    )
    # What begins, and what ends it.
    _ENDS: Final = {
        "link opened": ("link ended", "link broken"),
        "host came": ("host went",),
        "hub draining": ("hub drained", "hub drain cut short"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        # By message, of which link and host.
        self._told: dict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
        self._logger = logging.getLogger("relayrpc")
        self._hub_logger = logging.getLogger("relayrpc.hub")
        self._before = (self._logger.level, self._hub_logger.level, self._logger.propagate)
        self._logger.setLevel(logging.WARNING)
        self._hub_logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.lines.append(record.getMessage())
        text = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(text, EventText):
            what = (text.values.get("link_id"), text.values.get("announcement_id"))
            self._told[text.event.message][what] += 1

    def check(self) -> None:
        """Assert that nothing is amiss, and that whatever began was told to have ended, once."""
        unexpected = [line for line in self.lines if not self._EXPECTED.match(line)]
        assert not unexpected, unexpected
        for begin, ends in self._ENDS.items():
            ended = sum((self._told[end] for end in ends), Counter())
            assert self._told[begin] == ended, f"{begin}: {self._told[begin]}, then {ended}"
        assert max(self._told["link opened"].values()) == 1

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._hub_logger.level, self._logger.propagate = self._before
        super().close()


class _Host:
    """A host process: a server, and another one with the same instance id after a restart."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.instance = f"host{index}"
        self.address = _ADDRESSES[index % len(_ADDRESSES)]
        self.server: Server | None = None
        # Whom it publishes to.
        self.watchers: Sized = ()
        # Of some of its services.
        self.throttle: Throttle | None = None

    async def start(self) -> None:
        world = self.world
        url = parse_url(f"relay://hub:7350/{self.address}", carrier=world.carrier)

        def make_live(on_call: Any) -> LiveLink:
            return LiveLink(
                [url],
                limits=world.limits,
                instance=self.instance,
                on_call=on_call,
                keep_trying=True,
                dialling=world.network.dialling(self.instance),
            )

        server = Server(
            make_live,
            address=self.address,
            migration_thread_pool=InlineExecutor(world.loop),
            interceptors=[_ServerPassOn()] if world.has_interceptors else (),
        )
        greeter = PlainGreeter if self.address == ADDRESS_PLAIN else AsyncGreeter
        servicer = greeter(self.instance, self.address, world.records)
        greeter_pb2_grpc.add_GreeterServicer_to_server(servicer, server)
        if self.address == ADDRESS_ASYNC:
            throttle = self.throttle = world.make_throttle()
            add_notebook(server, self.instance, world.conversations, throttle)
            add_gate(server, world.passages, throttle)
            self.watchers = add_porter(server, world.errands)
            add_clerk(server, world.ledger)
        self.server = server
        world.network.trace.add(f"{self.instance} starts")
        try:
            await server.start()
        except (ConnectError, LinkRefusedError):
            # Stopped while it began, or replaced by the process that came after it.
            is_over = self.server is not server or server.live._is_final
            assert is_over, "a host that was not stopped gave up"
            return
        world.network.trace.add(f"{self.instance} serves {self.address}")

    async def stop(self, grace_s: float | None) -> None:
        server, self.server = self.server, None
        if server is not None:
            self.world.network.trace.add(f"{self.instance} stops")
            await server.stop(grace_s)
            assert not server._contexts, "handlers are left"
            assert not server._assembly.declared_bytes, "messages are left half put together"


class _ServerPassOn(grpc.aio.ServerInterceptor):
    """An interceptor that changes nothing; so are those below."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


class _UnaryUnaryPassOn(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class _UnaryStreamPassOn(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class _StreamUnaryPassOn(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


class _StreamStreamPassOn(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


_CLIENT_INTERCEPTORS: Final = (
    _UnaryUnaryPassOn,
    _UnaryStreamPassOn,
    _StreamUnaryPassOn,
    _StreamStreamPassOn,
)


_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "samples.Greeter"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.5s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "UNKNOWN"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5},
    }
)


class _Caller:
    """A caller process: a channel, and the calls that run on it."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.name = f"caller{index}"
        # What is made again without a service config, and with one.
        self._options = (("grpc.service_config", _SERVICE_CONFIG),) if index % 2 else ()
        self.channel: Channel | None = None
        self.running: dict[str, Record] = {}
        self.is_closing = False
        self.heard = Heard()

    def open(self) -> None:
        world = self.world
        dialling = world.network.dialling(self.name)

        def make_live(on_call: Any) -> LiveLink:
            return LiveLink(
                [parse_url(f"relay://hub:7350/{ADDRESS_ASYNC}", carrier=world.carrier)],
                limits=world.limits,
                on_call=on_call,
                dialling=dialling,
            )

        callbacks = CallbackServer(make_live)
        add_listener(world.conversations, callbacks)
        self.heard = Heard()
        world.heard.append(self.heard)
        watcher = add_watcher(world.errands, self.heard, callbacks)
        options = read_options(self._options, world.limits)
        interceptors = [kind() for kind in _CLIENT_INTERCEPTORS] if world.has_interceptors else ()
        self.channel = Channel(
            callbacks.live,
            address=ADDRESS_ASYNC,
            interceptors=interceptors,
            options=options,
            retries=make_retries(options, random=dialling.random),
            callbacks=callbacks,
        )
        watcher.channel = self.channel
        self.is_closing = False

    async def call(self, plan: Plan) -> Record | None:
        """Make one call and judge its end; None when the channel was closed before it began."""
        world = self.world
        record = Record(plan)
        world.records[plan.key] = record
        self.running[plan.key] = record
        channel = self.channel
        assert channel is not None
        try:
            await make_call(channel, record)
        except grpc.aio.UsageError:
            is_closed = self.is_closing or self.channel is not channel
            assert is_closed, f"refused by an open channel: {record}"
            del world.records[plan.key]
            return None
        finally:
            del self.running[plan.key]
        world.network.trace.add(f"{self.name} {record}")
        check_end(
            record,
            now_s=world.loop.time(),
            may_be_lost=world.may_be_lost,
            may_be_refused=world.is_tight,
        )
        return record

    async def close(self, grace_s: float | None) -> None:
        self.is_closing = True
        for record in self.running.values():
            record.is_cancelled = True
        channel = self.channel
        assert channel is not None
        self.world.network.trace.add(f"{self.name} closes")
        await channel.close(grace_s)
        assert not channel.calls, "calls are left on a closed channel"
        assert channel.retries is not None
        kept = (channel.retries.waiting_count, channel.retries.kept_bytes)
        assert kept == (0, 0), "something is kept for attempts on a closed channel"
        assert not channel._assembly.declared_bytes, "messages are left half put together"


class World:
    """A hub, its hosts, its callers, and what happens to them."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, log: _Log) -> None:
        self.loop = loop
        self.rng = rng
        self.log = log
        self.records: dict[str, Record] = {}
        self.conversations: dict[str, Conversation] = {}
        self.errands = Errands()
        self.ledger = Ledger()
        self.passages: dict[str, Passage] = {}
        # Of every host that there was.
        self.throttles: list[Throttle] = []
        # Of every channel that there was.
        self.heard: list[Heard] = []
        # Harsh: hubs and hosts stop, links are lost for good. Else nothing may be lost, ever.
        self.is_harsh = rng.random() < 0.5
        self.may_be_lost = self.is_harsh
        self.is_tight = rng.random() < 0.25
        self.is_throttled = rng.random() < 0.25
        self.has_interceptors = rng.random() < 0.1
        self.carrier = rng.choice(("auto", "grpc", "websocket"))
        self.size_max = rng.choice((2_000, 50_000, 300_000))
        self.limits = self._draw_limits()
        delay_s_max = rng.choice((0.0, 0.001, 0.05, 0.3))
        # A window shorter than a handshake would end links that do nothing but move.
        window_s = max(self.limits.resume_window_s, 8 * delay_s_max)
        self.limits = replace(self.limits, resume_window_s=window_s)
        self.network = Network(
            loop, rng, limits=self.limits, delay_s_max=delay_s_max, observer=self.ledger
        )
        self.hosts = [_Host(self, index) for index in range(rng.randint(2, 3))]
        self.callers = [_Caller(self, index) for index in range(rng.randint(1, 3))]
        # No more faults.
        self.is_calm = False
        self._background: set[asyncio.Task[None]] = set()
        self._calls_count = 0

    @property
    def may_be_refused(self) -> bool:
        """Bounds are so tight that calls may be refused, or may wait for each other's room."""
        return self.is_tight or self.is_throttled

    @property
    def _callback_timeout_s(self) -> float:
        return _TIGHT_CALLBACK_TIMEOUT_S if self.may_be_refused else _CALLBACK_TIMEOUT_S

    def make_throttle(self) -> Throttle | None:
        """Make that of another host process; None: the default will do."""
        if not self.is_throttled:
            return None
        throttle = draw_throttle(self.rng)
        self.throttles.append(throttle)
        return throttle

    def _draw_limits(self) -> Limits:
        rng = self.rng
        limits = replace(
            DEFAULT_LIMITS,
            keepalive_interval_s=rng.choice((1.0, 5.0, 10.0)),
            handshake_timeout_s=rng.choice((2.0, 10.0)),
            resume_window_s=120.0 if not self.is_harsh else rng.choice((0.5, 5.0, 30.0)),
            drain_timeout_s=rng.choice((0.5, 5.0, 30.0)),
            backoff_s_max=2.0,
            connect_timeout_s=2.0,
            # Above the largest request that is drawn.
            checked_message_bytes_max=512 * KIB,
        )
        if self.is_tight:
            limits = replace(
                limits,
                calls_open_max=rng.choice((4, 16)),
                link_budget_bytes=rng.choice((256, 1024)) * KIB,
                initial_credit_bytes=rng.choice((4, 16)) * KIB,
                window_bytes_max=64 * KIB,
                unacknowledged_bytes_min=32 * KIB,
                unacknowledged_bytes_max=128 * KIB,
                send_queue_bytes_high=8 * KIB,
                ack_after_bytes=8 * KIB,
                names_max=rng.choice((3, 1024)),
            )
        return limits

    async def run(self) -> None:
        """Everything, from the hub's start to the last check."""
        self.network.start_hub()
        for host in self.hosts:
            await host.start()
        for caller in self.callers:
            caller.open()
            await self._probe(caller, [self.rng.choice(SHAPES)])
        self.network.dial_fault_chance = self.rng.choice((0.0, 0.3))
        load = [
            asyncio.ensure_future(self._load(caller))
            for caller in self.callers
            for _ in range(self.rng.randint(1, 3))
        ]
        chaos = asyncio.ensure_future(self._chaos())
        await self._finish(load, "the calls")
        self.is_calm = True
        await self._finish([chaos], "what was stopped and started")
        await self._heal()
        for caller in self.callers:
            probe = asyncio.ensure_future(self._probe(caller, SHAPES))
            await self._finish([probe], "a healed world")
        await self._finish([asyncio.ensure_future(self._check_contracts())], "the contracts")
        await self._end()

    async def _finish(self, tasks: list[asyncio.Future[None]], what: str) -> None:
        """Wait for tasks that must come to an end in bounded virtual time."""
        _, running = await asyncio.wait(tasks, timeout=_PROGRESS_S)
        if running:
            stuck = [str(record) for caller in self.callers for record in caller.running.values()]
            where = [task.get_stack()[-1] for task in running if isinstance(task, asyncio.Task)]
            raise AssertionError(f"no progress of {what}: {stuck} {where}")
        for task in tasks:
            task.result()

    async def _check_contracts(self) -> None:
        """The hub knows what its hosts serve."""
        contracts = self.network.contracts
        assert contracts is not None
        for host in self.hosts:
            found = await contracts.find(host.address, _GREETER)
            assert found.data == collect(greeter_pb2.DESCRIPTOR)

    # --- load ---

    async def _load(self, caller: _Caller) -> None:
        rng = random.Random(self.rng.getrandbits(32))
        for _ in range(rng.randint(2, 8)):
            if rng.random() < 0.2:
                await self._converse(caller, rng)
            if rng.random() < 0.2:
                await self._run_errand(caller, rng)
            if rng.random() < 0.2:
                await self._remark(caller, rng)
            if rng.random() < 0.2:
                await self._pass_gate(caller, rng)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0.0, 2.0))
            if rng.random() < 0.3:
                plans = [self._draw_plan(rng) for _ in range(rng.randint(2, 6))]
                await asyncio.gather(*(caller.call(plan) for plan in plans))
            else:
                await caller.call(self._draw_plan(rng))

    async def _converse(self, caller: _Caller, rng: random.Random) -> None:
        conversation = Conversation(
            f"s{len(self.conversations)}", self._callback_timeout_s, size_max=self.size_max
        )
        self.conversations[conversation.key] = conversation
        assert caller.channel is not None
        await converse(caller.channel, conversation, rng)
        self.network.trace.add(f"{caller.name} {conversation}")
        self.network.trace.count("session faulted" if conversation.fault else "session closed")

    async def _run_errand(self, caller: _Caller, rng: random.Random) -> None:
        # A line to one who watches is a call that stays, and tight worlds have few.
        errand = self.errands.draw(
            rng,
            None if self.is_tight else caller.heard,
            callback_timeout_s=self._callback_timeout_s,
        )
        assert caller.channel is not None
        await run_errand(caller.channel, errand)
        self.network.trace.add(f"{caller.name} {errand}")
        self.network.trace.count(f"errand {errand.method}")

    async def _remark(self, caller: _Caller, rng: random.Random) -> None:
        channel = caller.channel
        assert channel is not None
        made = [remark(channel, self.ledger, rng) for _ in range(rng.randint(1, 8))]
        for each in await asyncio.gather(*made):
            self.network.trace.add(f"{caller.name} {each}")

    async def _pass_gate(self, caller: _Caller, rng: random.Random) -> None:
        channel = caller.channel
        assert channel is not None
        made = [pass_gate(channel, self.passages, rng) for _ in range(rng.randint(1, 6))]
        for each in await asyncio.gather(*made):
            self.network.trace.add(f"{caller.name} {each}")
            if "at once" in each.details:
                self.network.trace.count("throttle refused")

    def _draw_plan(self, rng: random.Random) -> Plan:
        self._calls_count += 1
        plan = draw_plan(rng, f"c{self._calls_count}", size_max=self.size_max)
        if self.has_interceptors:
            # grpc's intercepted calls are held by the task that waits for their requests.
            plan.is_dropped = False
        return plan

    async def _probe(self, caller: _Caller, shapes: Sequence[Shape]) -> None:
        """Make calls that must go well."""
        for shape in shapes:
            self._calls_count += 1
            address = _ADDRESSES[self._calls_count % len(_ADDRESSES)]
            # One message each way will do for streams as well.
            sizes = [min(self.size_max, 100_000)]
            plan = Plan(f"p{self._calls_count}", shape, address, requests=sizes, responses=sizes)
            record = await caller.call(plan)
            assert record is not None
            assert record.status is grpc.StatusCode.OK, f"nothing was broken: {record}"
            assert record.ended_s is not None
            took_s = record.ended_s - record.started_s
            if self.is_calm and address == ADDRESS_ASYNC:
                # A plain handler waits for its thread.
                assert took_s <= _PROBE_S, f"{took_s:.3f} s in a healed world: {record}"

    # --- faults ---

    async def _chaos(self) -> None:
        rng = self.rng
        while not self.is_calm:
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 0.1), rng.uniform(0.0, 3.0))))
            self._check_bounds()
            if self.is_harsh and rng.random() < 0.15:
                await self._stop_something()
            else:
                self.network.break_one()

    async def _stop_something(self) -> None:
        rng = self.rng
        host = rng.choice(self.hosts)
        caller = rng.choice(self.callers)
        match rng.randrange(7):
            case 0:
                await self.network.kill_hub()
                await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 10.0))))
                self.network.start_hub()
            case 1:
                draining = asyncio.ensure_future(self.network.drain_hub())
                await asyncio.sleep(0.0)
                if rng.random() < 0.5:
                    # The next hub is there at once.
                    self.network.start_hub()
                self._keep(draining)
                if self.network.hub is None:
                    await asyncio.sleep(rng.uniform(0.0, 10.0))
                    self.network.start_hub()
            case 2 | 3:
                await host.stop(rng.choice((None, 0.0, rng.uniform(0.0, 5.0))))
                await self._restart(host)
            case 4:
                await self._crash(host)
            case 5:
                await caller.close(rng.choice((None, rng.uniform(0.0, 2.0))))
                caller.open()
            case _:
                party = rng.choice((host.instance, caller.name))
                self.network.trace.add(f"{party} is cut off")
                self.network.unreachable.add(party)
                for connection in self.network.live_connections(party):
                    connection.vanish()
                self.network.later(
                    rng.uniform(0.0, 60.0),
                    functools.partial(self.network.unreachable.discard, party),
                )

    async def _restart(self, host: _Host) -> None:
        """Start a host, whenever the hub lets it."""
        self._keep(asyncio.ensure_future(host.start()))

    async def _crash(self, host: _Host) -> None:
        """Lose a host's process; another of the same instance takes its place."""
        self.network.trace.add(f"{host.instance} crashes")
        party = host.instance
        self.network.unreachable.add(party)
        for connection in self.network.live_connections(party):
            connection.near.cut()
        await host.stop(0.0)
        self.network.unreachable.discard(party)
        await self._restart(host)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)

    def _check_bounds(self) -> None:
        """The hub's books are right, and everybody holds no more than allowed."""
        limits = self.limits
        for throttle in self.throttles:
            check_bounds(throttle)
            if any(throttle.waiting_counts.values()):
                self.network.trace.count("throttle had some wait")
        kept_bytes_max = (
            limits.unacknowledged_bytes_max + limits.control_reserve_bytes + limits.batch_bytes_max
        )
        for endpoint in [caller.channel for caller in self.callers] + [
            host.server for host in self.hosts
        ]:
            if endpoint is not None and endpoint.live.state is not grpc.ChannelConnectivity.IDLE:
                kept_bytes = endpoint.live.link.log.kept_bytes
                assert kept_bytes <= kept_bytes_max, f"{kept_bytes} bytes kept at an endpoint"
        for hub in self.network.hubs:
            for link in hub.table.links:
                assert link.log.kept_bytes <= kept_bytes_max, f"{link.log.kept_bytes} bytes kept"
                budget = link.budget
                assert budget is not None
                assert budget.used_bytes <= budget.limit_bytes, f"{budget.used_bytes} bytes"
                legs = [*link._calls.values(), *link._calls_waiting]
                charged = sum(leg.charged_bytes for leg in legs)
                assert charged == budget.used_bytes, f"{charged} of {budget.used_bytes} charged"

    # --- the end ---

    async def _heal(self) -> None:
        network = self.network
        network.heal()
        if network.hub is None:
            network.start_hub()
        background = list(self._background)
        if background:
            await self._finish(background, "what was stopped and started")
        limits = self.limits
        # What still hangs on a silent carrier finds out, also one that waits for Welcome.
        await asyncio.sleep(4 * limits.keepalive_interval_s + limits.handshake_timeout_s)
        for host in self.hosts:
            if host.server is not None and host.server.live._is_final:
                # A stalled Hello of the process before arrived last and took its place; whoever
                # supervises it starts it again.
                await host.stop(0.0)
            if host.server is None:
                await host.start()
        # A call object that was dropped within a cycle is cancelled when it is collected.
        gc.collect()
        # Every link is up.
        await asyncio.sleep(4 * limits.keepalive_interval_s + limits.resume_window_s)
        for record in self.records.values():
            # One with a dedupe key waits for a caller that may come back.
            is_over = record.handler_end or not record.instances or record.plan.dedupe_key
            assert is_over, f"its handler still runs: {record}"
        for caller in self.callers:
            assert caller.channel is not None
            await asyncio.wait_for(caller.channel.channel_ready(), _PROGRESS_S)
        for host in self.hosts:
            assert host.server is not None
            check_lines(host.server.live.link, host.watchers)
        for throttle in self.throttles:
            check_idle(throttle)

    async def _end(self) -> None:
        """Stop everything, in any order, and see that nothing is left."""
        rng = self.rng
        self.may_be_lost = True
        ends: list[Callable[[], Awaitable[None]]] = [self._end_hub]
        ends += [functools.partial(each.close, rng.choice((None, 1.0))) for each in self.callers]
        ends += [functools.partial(each.stop, rng.choice((None, 1.0))) for each in self.hosts]
        rng.shuffle(ends)
        for end in ends:
            await end()
        # What a carrier needs to end in order; whatever waits longer is left behind.
        await asyncio.sleep(_GOODBYE_S)
        _check_loop(self.loop)
        for hub in self.network.hubs:
            _check_hub(hub)
        for books in self.network.books:
            books.check()
        for record in self.records.values():
            check_truth(record)
            self._count(record)
        for conversation in self.conversations.values():
            conversation.check(
                self.ledger,
                may_be_lost=self.is_harsh,
                may_be_refused=self.may_be_refused,
            )
        for passage in self.passages.values():
            passage.check(
                may_be_lost=self.is_harsh or self.is_tight, may_be_refused=self.may_be_refused
            )
        for throttle in self.throttles:
            check_idle(throttle)
        for errand in self.errands.by_key.values():
            errand.check(may_be_lost=self.is_harsh or self.may_be_refused)
        self.ledger.check(may_be_lost=self.is_harsh or self.is_tight)
        for each in self.ledger.remarks.values():
            if each.status is grpc.StatusCode.OK:
                self.network.trace.count("one-way call ran" if each.runs else "one-way call lost")
        for heard in self.heard:
            heard.check()
            if heard.count:
                self.network.trace.count("publications heard")
        self.log.check()
        live = self.network.live_connections()
        assert not live, f"connections are left: {[each.near.name for each in live]}"

    async def _end_hub(self) -> None:
        if self.rng.random() < 0.5:
            await self.network.drain_hub()
        else:
            await self.network.close_hub()

    def _count(self, record: Record) -> None:
        assert record.status is not None
        count = self.network.trace.count
        count(f"call {record.plan.shape}")
        count(f"call ended {record.status.name}")
        if not record.may_have_executed:
            count("call not executed, and its caller knows")
        if record.instances:
            count(f"handler {record.handler_end}")


def _check_hub(hub: Any) -> None:
    assert not len(hub.table), f"links are left: {hub.table.links}"
    assert not hub._drivers, "drivers are left"
    assert not hub.handshakes_count, "handshakes are left"
    assert not hub.forwarder.starved_count, "starved calls are left"
    assert not hub.forwarder.router.registrations, "registrations are left"


def main() -> None:
    for argument in sys.argv[1:]:
        first, _, last = argument.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            print(seed, run_world(seed).digest)


if __name__ == "__main__":
    main()
