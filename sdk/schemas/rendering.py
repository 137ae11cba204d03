"""How rows became tokens, as recorded with what was trained on them."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from sdk.schemas.wire import Sha256, Wire, canonical_json

_LongText = Annotated[str, StringConstraints(max_length=2000)]


def _require_day(value: str) -> str:
    date.fromisoformat(value)
    return value


#: A day as "2026-11-26".
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_require_day)]


_Method = Annotated[str, StringConstraints(max_length=200)]


class Rendering(Wire):
    """How rows became tokens, and where a model trained on them stops."""

    #: SHA-256 of each chat template that rendered conversations, sorted.
    templates: Annotated[list[Sha256], Field(max_length=64)] = []
    #: Number of texts by the method that found what to learn: "marks", "prefix", "variant", "turns", "changed" or
    #: "all".
    methods: Annotated[dict[_Method, Annotated[int, Field(ge=0)]], Field(max_length=64)] = {}
    #: The day that the template wrote into the conversations; None if it writes none.
    template_date: Day | None = None
    #: Ids of the tokens that end what is learnt, sorted; generation stops at them.
    stop_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=256)] = []
    #: Which columns were which keys of the rows; None: the keys were called as the columns.
    columns: Annotated[_LongText | None, Field(exclude_if=lambda value: value is None)] = None
    #: SHA-256 over the digests of the base's tokenizer files; None: unknown.
    tokenizer: Annotated[Sha256 | None, Field(exclude_if=lambda value: value is None)] = None
    #: SHA-256 of the base's `generation_config.json`, which the fingerprint does not cover; None if it has none.
    generation: Annotated[Sha256 | None, Field(exclude_if=lambda value: value is None)] = None

    def canonical(self) -> bytes:
        """Return the bytes of `rendering.json`, which is stored with an adapter."""
        return canonical_json(self.model_dump())
