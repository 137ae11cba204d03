"""When the gate is asked: most answers are known, or take milliseconds, and some read scores by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from registry.http.routes import answered, apart
from registry.promotion.question import JudgingNeededError

T = TypeVar("T")


async def decided(call: Callable[..., T], **given: Any) -> T:
    """Call what asks the gate; only what must be judged first waits among those who read scores by row."""
    try:
        return await answered(call, **given, may_judge=False)
    except JudgingNeededError:
        return await apart(call, lane="reading long", **given)
