"""
What must be true of the relay's own tables: budgets while it runs, emptiness when it is at rest.

This is the one place of the simulation that looks inside the core; what users can see is checked by
the ledger. Source: LINK.md "Credit, budget, fairness"; docs/ARCHITECTURE.md, "What never happens".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayrpc.link.link import LinkState


if TYPE_CHECKING:
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link
    from tests.simulation.processes import Network, SimHub
    from tests.simulation.world import World


__all__ = ["check_at_rest", "check_budgets", "check_closed", "check_parting"]


def check_budgets(network: Network) -> None:
    """On every hub's link: what is queued, and credit given out, is what its budget says."""
    for hub in network.hubs:
        if not hub.is_dead:
            for link in hub.table.links:
                _check_budget(network.world, hub.name, link)
                _check_kept(network.world, hub.name, link)
    for peer in network.peers:
        _check_kept(network.world, peer.name, peer.link)


def _check_kept(world: World, name: str, link: Link) -> None:
    """What is kept until it is acknowledged has its bound, the reserve included."""
    limits = link.limits
    bound = link.log.path.window_bytes + limits.control_reserve_bytes + limits.batch_bytes_max
    if link.log.kept_bytes > bound:
        world.fail("budget", f"{name}: {link.log.kept_bytes} bytes kept, {bound} are allowed")


def _check_budget(world: World, name: str, link: Link) -> None:
    budget = link.budget
    assert budget is not None
    used = charged = 0
    for leg in (*link._calls.values(), *link._calls_waiting):
        held = _held_bytes(leg)
        used += held
        charged += leg.charged_bytes
        if held > leg.charged_bytes:
            world.fail(
                "budget", f"{name}: {leg} holds {held} bytes, {leg.charged_bytes} are charged"
            )
        if held < leg.charged_bytes:
            world.fail(
                "budget-leak", f"{name}: {leg} holds {held} bytes, {leg.charged_bytes} are charged"
            )
    if charged != budget.used_bytes:
        world.fail(
            "budget-leak",
            f"{name}: calls were charged {charged} bytes, {budget.used_bytes} are counted",
        )
    if used > budget.limit_bytes:
        world.fail(
            "budget", f"{name}: {used} bytes leave by one link, {budget.limit_bytes} are allowed"
        )
    world.seen["budget used %"] = max(
        world.seen["budget used %"], 100 * budget.used_bytes // budget.limit_bytes
    )


def _held_bytes(leg: Call) -> int:
    """What waits to leave by this leg, and what its other end may still send."""
    held = leg.unsent_bytes
    if leg.open_frame is not None:
        held += len(leg.open_frame.open.data)
    if leg.app is not None:
        held += leg.app.receive_credit_bytes
    return held


def check_at_rest(network: Network) -> None:
    """When every call is over and everything is acknowledged, nothing is left anywhere."""
    world = network.world
    for peer in network.peers:
        if not peer.is_dead and not peer.link.is_closed:
            _check_link(world, peer.link_key, peer.link)
            if peer.driver.carriers_count > 1:
                world.fail("leak", f"{peer.name}: {peer.driver.carriers_count} carriers")
    for hub in network.hubs:
        if not hub.is_dead:
            _check_hub(world, hub)


def check_parting(network: Network) -> None:
    """Links that have ended hold no calls, whatever they held."""
    for peer in network.peers:
        for link, key in peer.link_keys.items():
            if link.is_closed and not peer.is_dead:
                _check_calls(network.world, key, link)


def _check_link(world: World, name: str, link: Link) -> None:
    _check_calls(world, name, link)
    left = {
        "batches kept": len(link.log._kept),
        "bytes kept": link.log.kept_bytes,
        "batches to send again": len(link.log._again),
        "frames to send": not link._outbox.is_empty(),
        "events": len(link._events),
    }
    for what, count in left.items():
        if count and (link.state is LinkState.OPEN or what == "events"):
            world.fail("leak", f"{name}: {what}: {count}")


def _check_calls(world: World, name: str, link: Link) -> None:
    budget = link.budget
    left = {
        "calls": len(link._calls),
        "calls waiting": len(link._calls_waiting),
        "own calls": link._own_calls_count,
        "peer's calls": link._peer_calls_count,
        "deadlines": sum(len(bucket) for bucket in link._deadlines._buckets.values()),
        "grants": len(link._outbox._grants),
        "budget": 0 if budget is None else budget.used_bytes,
        "shared budget": 0 if budget is None else budget._shared_used_bytes,
    }
    for what, count in left.items():
        if count:
            world.fail("leak", f"{name}: {what}: {count}")


def _check_hub(world: World, hub: SimHub) -> None:
    for link in hub.table.links:
        _check_link(world, f"{hub.name}'s link of {link.instance}", link)
    forwarder = hub.forwarder
    queue = forwarder.queue
    if len(queue) or queue.places or queue._used_bytes:
        world.fail("leak", f"{hub.name}: {len(queue)} calls wait, {queue._used_bytes} bytes")
    if forwarder.starved_count:
        world.fail("leak", f"{hub.name}: {forwarder.starved_count} starved")
    for registration in forwarder.router.registrations:
        if registration.calls_open_count:
            world.fail("leak", f"{hub.name}: {registration.calls_open_count} calls counted open")


def check_closed(network: Network) -> None:
    """When every link was closed, hubs know nobody."""
    world = network.world
    for hub in network.hubs:
        if hub.is_dead:
            continue
        for link in hub.table.links:
            world.fail("leak", f"{hub.name}: link of {link.instance}, {link.state.name}")
        router = hub.forwarder.router
        left = {
            "instances": len(hub.table._by_instance),
            "drivers": len(hub.drivers),
            "registrations": len(router.registrations),
            "places": len(router._by_place),
            "addresses": len(router._services_by_address),
            "newcomers": len(hub.table._newcomers),
            "takeovers": len(hub.table._takeovers_s),
        }
        for what, count in left.items():
            if count:
                world.fail("leak", f"{hub.name}: {what}: {count}")
