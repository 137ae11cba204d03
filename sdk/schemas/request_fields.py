"""Which fields a job's request may have: what a program knows of them, and which ones a request uses.

A reader ignores fields that it doesn't know, and would do something other than what was asked for. So workers say with
each claim which fields they know, and a job is only given to one that knows all that it uses. Both are derived from the
schemas: a field that is added to one is known from then on.

>>> from sdk.schemas.job_requests import MergeRequest
>>> sorted(used_fields(MergeRequest.model_validate({"ref": "a@v1", "spec": {"dtype": "bfloat16"}})))
['merge.spec', 'merge.spec.dtype']
>>> "merge.spec.dtype" in known_fields(), "merge.spec.of_tomorrow" in known_fields()
(True, False)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from sdk.schemas.job_requests import REQUESTS


@cache
def known_fields() -> frozenset[str]:
    """Return the dotted path of every field of every kind of request, the kind first."""
    return frozenset(
        f"{kind}.{path}" for kind, request in REQUESTS.items() for path in _fields_of(request) if path != "kind"
    )


def used_fields(request: Any) -> set[str]:
    """Return the paths of the fields that a request uses: those that have another value than if nobody had set them.

    Fields that every request of the kind has are left out: whoever knows the kind knows them.
    """
    return {f"{request.kind}.{path}" for path in _used_in(request)}


def _fields_of(kind: type[BaseModel]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield name
        for inner in _models_in(field.annotation):
            yield from (f"{name}.{path}" for path in _fields_of(inner))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the records that a value of this type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _used_in(record: BaseModel) -> Iterator[str]:
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if not field.is_required():
            if value == field.get_default(call_default_factory=True, validated_data={}):
                continue
            yield name
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, BaseModel):
                yield from (f"{name}.{path}" for path in _used_in(inner))
