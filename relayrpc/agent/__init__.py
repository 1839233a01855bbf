"""An existing gRPC server, in any language, as a host: its calls are forwarded as they are."""

from __future__ import annotations


__all__: list[str] = []
