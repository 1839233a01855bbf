"""`python -m relayrpc` is the command `relayrpc`."""

from __future__ import annotations

from relayrpc.cli.main import main


__all__: list[str] = []

if __name__ == "__main__":
    main()
