"""A training that is repeated from the record of the version that it made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from sdk.formats.refs import Ref
from sdk.schemas.wire import JsonScalar, Sha256, Wire

#: Keys of a training's record about its environment and its rows that can change what it computes.
RAN_WITH = (
    "device",
    "device_name",
    "dtype",
    "threads",
    "base_weights",
    "micro_batch",
    "gradient_checkpointing",
    "logit_chunk_tokens",
    "activation_offloading",
    "packed",
    "row_attention",
    "memory_steps",
    "max_length",
    "samples",
    "rows_cut",
    "total_steps",
)
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
