"""Every place of a request in which a caller may put something: taken from the OpenAPI document, so none is forgotten.

>>> places = places_of({"paths": {"/a": {"post": {"operationId": "make", "parameters": [], "requestBody": {"content": {
...     "application/json": {"schema": {"type": "object", "properties": {"tags": {"type": "object",
...     "additionalProperties": {"type": "string"}}}}}}}}}}}, {"make": {}})
>>> [(place.operation, place.keys, place.kind) for place in places]
[('make', ('tags',), 'object'), ('make', (), 'object')]
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

METHODS = ("get", "put", "post", "patch", "delete")
#: How deep fields may be, and how often a schema may contain itself.
_MOST_DEPTH = 9


@dataclass(frozen=True)
class Place:
    """One field of a body, or one parameter of the query."""

    operation: str
    method: str
    path: str
    #: The keys that lead to the field in the body, or the parameter's name alone.
    keys: tuple[str | int, ...]
    kind: str
    is_query: bool = False
    #: Which member of a union the body is, such as the kind of a job.
    variant: str = ""
    #: A body that is right in everything else.
    body: Any = field(default=None, compare=False, hash=False, repr=False)

    @property
    def name(self) -> str:
        """What a person calls it: `submit_job(evaluation).request.spec.regex`."""
        operation = f"{self.operation}({self.variant})" if self.variant else self.operation
        return ".".join([operation, *map(str, self.keys)])

    def filled(self, value: Any) -> Any:
        """The body with this value in the field."""
        return put(self.body, self.keys, value)


def put(body: Any, keys: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy of a body with a value where the keys lead; what is missing on the way is made."""
    if not keys:
        return value
    first, *rest = keys
    if isinstance(first, int):
        items = list(body) if isinstance(body, list) and body else [None]
        items[0] = put(items[0], tuple(rest), value)
        return items
    found = dict(body) if isinstance(body, dict) else {}
    found[first] = put(found.get(first), tuple(rest), value)
    return found


def places_of(
    document: Mapping[str, Any], bodies: Mapping[str, Any], variants: Mapping[str, Any] | None = None
) -> list[Place]:
    """Return the places of all operations. `bodies` has an example by operation, `variants` one by the constant `kind`
    of a member of a union.
    """
    found = []
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                found += _places(document, path, method, operations[method], bodies, variants or {})
    return list({(place.name, place.kind, place.path): place for place in found}.values())


def _places(
    document: Mapping[str, Any],
    path: str,
    method: str,
    operation: Mapping[str, Any],
    bodies: Mapping[str, Any],
    variants: Mapping[str, Any],
) -> Iterator[Place]:
    name = operation["operationId"]
    given = copy.deepcopy(bodies.get(name))
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            yield Place(name, method, path, (parameter["name"],), "text", is_query=True, body=given)
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        for keys, kind, body, variant in _fields(document, content["schema"], (), given, variants, ()):
            yield Place(name, method, path, keys, kind, variant=variant, body=body)
        yield Place(name, method, path, (), "object", body=given)


def _fields(
    document: Mapping[str, Any],
    schema: Mapping[str, Any],
    keys: tuple[str | int, ...],
    body: Any,
    variants: Mapping[str, Any],
    seen: tuple[str, ...],
    variant: str = "",
) -> Iterator[tuple[tuple[str | int, ...], str, Any, str]]:
    """Yield (keys, kind, body, variant) of the fields of a schema."""
    if (reference := schema.get("$ref")) is not None:
        if seen.count(reference) > 1 or len(keys) > _MOST_DEPTH:
            return
        name = reference.rpartition("/")[2]
        schema, seen = document["components"]["schemas"][name], (*seen, reference)
    constant = schema.get("properties", {}).get("kind", {}).get("const")
    if constant in variants:
        body, variant = put(body, keys, copy.deepcopy(variants[constant])), constant
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _fields(document, part, keys, body, variants, seen, variant)
    kind = schema.get("type")
    if kind == "string":
        yield keys, "text", body, variant
    elif kind in ("integer", "number"):
        yield keys, "number", body, variant
    elif kind == "array":
        if keys:
            yield keys, "list", body, variant
        yield from _fields(document, schema.get("items", {}), (*keys, 0), body, variants, seen, variant)
    elif kind == "object":
        free = schema.get("additionalProperties")
        if keys and free not in (None, False):
            yield keys, "object", body, variant
        if isinstance(free, dict):
            yield from _fields(document, free, (*keys, "a"), body, variants, seen, variant)
        for name, inner in schema.get("properties", {}).items():
            yield from _fields(document, inner, (*keys, name), body, variants, seen, variant)
