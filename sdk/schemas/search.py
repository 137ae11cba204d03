"""What a search finds, as sent over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.wire import Wire

#: The order of the results; a leading "-" puts the newest or highest first.
SortKey = Literal["-created", "created", "name", "rank", "-rank"]


class BaseName(Wire):
    """Which base a version is over."""

    id: str
    revision: str | None
    fingerprint: str


class LoraSize(Wire):
    """The part of a LoRA configuration that distinguishes versions for people."""

    rank: int
    alpha: float
    #: Sorted names as in `adapter_config.json`.
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
    #: "qlora", "lora", or "unknown" if the pusher did not say.
    method: str
    #: What was measured when it was made: loss, eval_loss …
    metrics: dict[str, float]
    #: If the filter names scores: the namespaces that made those of which it was asked.
    scores_of: Annotated[list[str], Field(exclude_if=lambda value: not value)] = []
