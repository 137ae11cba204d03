"""What a search finds, as it travels."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sdk.schemas.wire import Wire

#: The order of what is found; "-" begins with the newest or the highest.
SortKey = Literal["-created", "created", "name", "rank", "-rank"]


class BaseName(Wire):
    """Which base a version is over."""

    id: str
    revision: str | None
    fingerprint: str


class LoraSize(Wire):
    """The part of a LoRA configuration that people tell versions apart by."""

    rank: int
    alpha: float
    #: Sorted names as `adapter_config.json` holds them.
    target_modules: list[str]


class VersionBrief(Wire):
    """A version in a list: what `show` prints of it, shortened."""

    ref: str
    adapter: str
    number: int | None
    digest: str
    state: str
    kind: str
    aliases: list[str]
    tags: dict[str, str]
    created_by: str
    created_at: datetime
    base: BaseName
    lora: LoraSize
    #: "qlora", "lora", or "unknown" where the pusher did not say.
    method: str
    #: What its making measured: loss, eval_loss …
    metrics: dict[str, float]
