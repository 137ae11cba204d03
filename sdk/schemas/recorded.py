"""What is recorded of a training: how its rows became tokens, and what it is repeated from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from sdk.formats.refs import Ref
from sdk.schemas.wire import IF_SET, JsonScalar, Sha256, Wire, canonical_json

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
    columns: Annotated[_LongText | None, IF_SET] = None
    #: SHA-256 over the digests of the base's tokenizer files; None: unknown.
    tokenizer: Annotated[Sha256 | None, IF_SET] = None
    #: SHA-256 of the base's `generation_config.json`, which the fingerprint does not cover; None if it has none.
    generation: Annotated[Sha256 | None, IF_SET] = None

    def canonical(self) -> bytes:
        """Return the bytes of `rendering.json`, which is stored with an adapter."""
        return canonical_json(self.model_dump())


#: The most entries in `ran_with`.
_MOST_NAMES = 64


class RecordedTraining(Wire):
    """The version whose training is repeated."""

    ref: str
    #: SHA-256 of its manifest; the registry pins it when the job is accepted.
    digest: Sha256 | None = None
    #: The environment of the training, by name: releases of libraries, device, dtype, threads, samples. The registry
    #: takes it from the record.
    ran_with: Annotated[dict[str, JsonScalar], Field(max_length=_MOST_NAMES)] = {}

    @field_validator("ref")
    @classmethod
    def _ref(cls, value: str) -> str:
        return str(Ref.parse(value))

    def differences(self, now: Mapping[str, Any]) -> list[str]:
        """Name what is different now; values that either of the two lacks are ignored.

        >>> RecordedTraining(ref="a@v1", ran_with={"torch": "2.12", "threads": 2}).differences({"torch": "2.13", "threads": 2})
        ['torch 2.12 → 2.13']
        """
        both = ((name, was, now[name]) for name, was in self.ran_with.items() if name in now)
        return [f"{name} {_said(was)} → {_said(found)}" for name, was, found in both if was != found]


def _said(value: JsonScalar) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "none" if value is None else str(value)
