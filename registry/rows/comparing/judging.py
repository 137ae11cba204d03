"""What the rows of a version's scores say to the limits of a rule: by name in a process apart, with paths and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.rows.comparing.orders import RowsOf


def judge(
    *,
    targets: Sequence[RowsOf],
    metric: str,
    limits: Sequence[dict[str, Any]],
    alpha: float,
    seed: str,
    lower_is_better: bool,
    dataset: str | None,
    by: str | None,
    cluster: str | None,
    signatures: str | None,
) -> list[dict[str, Any]]:
    """Return what the rows say to each limit, as JSON."""
    raise NotImplementedError
