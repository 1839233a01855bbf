"""
Links between a hub and the parts of itself that call or serve through it: gateways and the hub's
own contracts. Each is an ordinary link over a memory carrier, so that nothing is routed, bounded or
counted in a second way.

Owns: how the hub is reached from its own process. Does not own: what goes over the link.
Source: DESIGN.md decisions 8 and 9.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from relayrpc.carrier.memory import MemoryCarrier, memory_pair
from relayrpc.carrier.url import RelayURL
from relayrpc.endpoint.dialler import Dialling
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.errors import ConnectError


if TYPE_CHECKING:
    from relayrpc.carrier.base import Carrier
    from relayrpc.hub.session import HubSessions
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["local_link", "open_memory_carrier"]

# Never dialled: it stands in logs.
_URL: Final = RelayURL(
    host="hub",
    port=0,
    is_secure=False,
    address="",
    first_carrier="websocket",
    may_move=False,
    pinned="websocket",
)
# The hub's own log says of these links what there is to say of links (log.py).
_LOGGER: Final = logging.getLogger("relayrpc.link.local")
_LOGGER.setLevel(logging.WARNING)


def open_memory_carrier(
    sessions: HubSessions, *, peer: str = "", local_identity: str = ""
) -> MemoryCarrier:
    """
    Open a carrier to a hub of this process; needs a running loop.

    Args:
        sessions: Of the hub.
        peer: What the hub sees as its peer, as gRPC writes peers; empty: the pipe's own name.
        local_identity: As HubSessions.accept()'s.

    Raises:
        ConnectError: The hub drains.
    """
    if sessions.is_draining:
        raise ConnectError("the hub is stopping")
    loop = asyncio.get_running_loop()
    ours, hubs = memory_pair(limits=sessions.limits, schedule=loop.call_soon)
    hubs.peer = peer or hubs.peer
    sessions.accept(hubs, local_identity=local_identity)
    return ours


def local_link(
    sessions: HubSessions,
    *,
    identity: str,
    peer: str,
    instance: str | None = None,
    on_call: Callable[[Call, pb.Open], None] | None = None,
    limits: Limits | None = None,
) -> LiveLink:
    """
    Make a link from a part of the hub to the hub; good for a Channel or a Server of the endpoint.

    Args:
        sessions: Of the hub.
        identity: What the hub vouches for as `caller_identity`; begins with "$", which no peer
            beyond the hub can claim.
        peer: What it vouches for as `caller_peer`: whom this part speaks for, as gRPC writes peers.
        instance: None: random.
        on_call: Takes the calls it serves; None: it serves none.
        limits: This part's own bounds; None: the hub's.
    """
    assert identity.startswith("$")

    async def dial(*_args: Any, **_options: Any) -> Carrier:
        return open_memory_carrier(sessions, peer=peer, local_identity=identity)

    return LiveLink(
        [_URL],
        limits=limits or sessions.limits,
        instance=instance,
        on_call=on_call,
        keep_trying=True,
        # The hub makes its one span of each call itself.
        dialling=Dialling(
            dial=dial, clock=sessions.clock, find_tracing=lambda: None, logger=_LOGGER
        ),
    )
