"""Every carrier passes the one suite, on both event loops, and leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.testing import CARRIER_CHECKS
from relayrpc.testing.carrier_suite import Check
from tests.support.carriers import TLSFiles, open_carriers, tls_files


__all__ = ["tls_files"]

KINDS = ["memory", "faulty", "websocket", "websocket+tls", "grpc", "grpc+tls"]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("check", CARRIER_CHECKS, ids=lambda check: check.__name__.strip("_"))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", LOOPS)
def test_carrier_passes(kind: str, loop: str, check: Check, tls_files: TLSFiles) -> None:
    run(LOOPS[loop], kind, check, tls_files)


def run(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    kind: str,
    check: Check,
    files: TLSFiles,
) -> None:
    async def checked() -> None:
        async with open_carriers(kind, files) as open_pair:
            before = len(asyncio.all_tasks())
            await check(open_pair, DEFAULT_LIMITS)
            async with asyncio.timeout(10):
                while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 # a task has no event
                    await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(checked())
