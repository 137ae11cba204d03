"""Logging of worker processes: times, levels, names; libraries speak up only when something is wrong."""

from __future__ import annotations

import logging


def configure(level: str) -> None:
    """Log to standard error from `level` on."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True)
    quieten()


def quieten() -> None:
    """One line a request would bury what the worker says."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
