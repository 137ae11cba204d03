"""Helpers of folders, as parts beside those of a stack."""

from __future__ import annotations

import time

from sdk.home_helpers import HomeHelper, end_helpers, helpers, log_of
from sdk.stack.control import Part
from sdk.stack.keeper import PartState


def helper_parts() -> list[Part]:
    """Return this user's helpers as they are now."""
    return [_part(helper) for helper in helpers()]


def end_home_helpers() -> list[str]:
    """End this user's helpers; return what they are called."""
    return [_name(helper) for helper in end_helpers()]


def _name(helper: HomeHelper) -> str:
    return f"helper of {helper.home}"


def _part(helper: HomeHelper) -> Part:
    return Part(
        part=_name(helper),
        state=PartState.READY,
        pid=helper.pid,
        port=None,
        uptime_s=max(0, round(time.time() - helper.since_s)),
        restarts=0,
        failures=0,
        message="it answers commands over this folder, and ends a minute after the last one",
        log=str(log_of(helper)),
    )
