"""
A peer that asks and never reads, over real sockets. Goal: it loses its link and its connection, and
the hub holds no more for it than it is allowed to.

Method: a raw peer that sends calls which nobody serves, and takes nothing; the hub is in this
process.
"""

from __future__ import annotations

import dataclasses
from contextlib import aclosing

import pytest

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.v1 import link_pb2 as pb
from tests.support.raw_peer import Door, RawLink, open_frame, open_raw
from tests.support.relay import peer_links, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

# What the hub may have given to the connection beside: its window, and what sockets hold.
LIMITS = dataclasses.replace(DEFAULT_LIMITS, unread_bytes_max=256 * KIB)
CALLS_A_BATCH = 500
# An answer has more than 20 bytes; those in the window and in the reserve are not held.
BATCHES_MAX = (
    LIMITS.unread_bytes_max + LIMITS.unacknowledged_bytes_min + LIMITS.control_reserve_bytes
) // (20 * CALLS_A_BATCH)


@pytest.mark.parametrize("door", ["grpc", "websocket"])
async def test_peer_that_asks_and_never_reads_loses_its_link(door: Door) -> None:
    async with running_hub(limits=LIMITS) as hub:
        carrier = await open_raw(door, grpc_port=hub.grpc_port, http_port=hub.http_port)
        async with aclosing(carrier):
            link = await RawLink.open(carrier)
            (hub_link,) = peer_links(hub)
            while not hub_link.is_closed:
                first_id = 1 + 2 * CALLS_A_BATCH * link.number
                ids = range(first_id, first_id + 2 * CALLS_A_BATCH, 2)
                await link.send(*map(open_frame, ids))
                await until(
                    lambda: hub_link.is_closed or hub_link.log.received_number == link.number
                )
                assert link.number <= BATCHES_MAX
            last = await carrier.receive_last()
            assert last is not None
            assert last.close.code == pb.Close.CODE_LIMIT
            assert not peer_links(hub)
