"""How long something took, or how long ago it was, as a number and its unit.

>>> human_duration(40), human_duration(750), human_duration(18_000), human_duration(300_000)
('40 s', '12 min', '5 h', '3 d')
"""

from __future__ import annotations

from datetime import UTC, datetime


def human_duration(seconds: float) -> str:
    """Return "40 s", "12 min", "5 h" or "3 d"."""
    for unit, length_s, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < most * length_s:
            return f"{max(0, int(seconds // length_s))} {unit}"
    return f"{int(seconds // 86_400)} d"


def age_of(moment: datetime) -> str:
    """How long ago a moment was."""
    return human_duration((datetime.now(UTC) - moment).total_seconds())
