"""
Generated protobuf code of the relay's own contracts, written by `make gen`; never edited by hand.

Source: protos/relayrpc/v1/.
"""

from __future__ import annotations


__all__: list[str] = []
