"""Hosts and callers: what grpcio's objects are, over a link to a hub, and what they have beyond."""
