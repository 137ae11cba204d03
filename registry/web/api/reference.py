"""An OpenAPI document, as its page shows it: operations by subject, and what the types of their bodies and answers are.

>>> str(type_of({"type": "array", "items": {"$ref": "#/components/schemas/JobView"}}))
'list of <a href="#JobView">JobView</a>'
>>> str(prose("Sent as `a < b`, **once**."))
'<p>Sent as <code>a &lt; b</code>, <strong>once</strong>.</p>'
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

_REF = "#/components/schemas/"
_CODE = re.compile(r"`([^`]+)`")
_STRONG = re.compile(r"\*\*([^*]+)\*\*")
_FIRST_SENTENCE = re.compile(r"[.;:]\s|\.$|\n\n")
#: How a bound is written after the type that it holds for.
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "pattern": "as {}",
    "default": "default {}",
}


@dataclass(frozen=True)
class DocumentedField:
    """A parameter, or a property of a type."""

    name: str
    type: Markup
    bounds: str
    text: Markup
    is_required: bool
    #: "query", "path" or "header", of a parameter.
    place: str = ""


@dataclass(frozen=True)
class ApiOperation:
    """What one method of one path does."""

    id: str
    method: str
    path: str
    #: The first sentence of `text`.
    brief: Markup
    text: Markup
    parameters: list[DocumentedField]
    #: None: it takes no body.
    body: Markup | None
    example: str
    #: By status, what it answers.
    answers: list[tuple[str, Markup, str]]
    wants_token: bool


@dataclass(frozen=True)
class ApiSubject:
    """What several operations are about."""

    name: str
    text: Markup
    operations: list[ApiOperation]


@dataclass(frozen=True)
class ApiType:
    """One of the document's types; without fields, `type` says what it is."""

    name: str
    text: Markup
    type: Markup
    fields: list[DocumentedField]


@dataclass(frozen=True)
class ApiReference:
    """All that the page shows."""

    title: str
    version: str
    text: Markup
    subjects: list[ApiSubject]
    types: list[ApiType]


def reference_of(document: dict[str, Any]) -> ApiReference:
    """Read an OpenAPI document."""
    operations: dict[str, list[ApiOperation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    subjects = [
        ApiSubject(tag["name"], prose(tag.get("description", "")), operations.get(tag["name"], []))
        for tag in document.get("tags", [])
    ]
    types = [_type(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    info = document["info"]
    return ApiReference(info["title"], info["version"], prose(info.get("description", "")), subjects, types)


def prose(text: str) -> Markup:
    """Return paragraphs with code and emphasis, as descriptions have them. All else is shown as it is."""
    paragraphs = re.split(r"\n\s*\n", text.strip()) if text.strip() else []
    return Markup("\n").join(Markup("<p>{}</p>").format(_inline(paragraph)) for paragraph in paragraphs)


def _inline(text: str) -> Markup:
    marked = _CODE.sub(r"<code>\1</code>", str(escape(text)))
    # It was escaped before anything was put around its parts.
    return Markup(_STRONG.sub(r"<strong>\1</strong>", marked))  # noqa: S704


def type_of(schema: dict[str, Any]) -> Markup:
    """Return the name of a type, with links to those of the document."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return Markup('<a href="#{0}">{0}</a>').format(name)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return Markup(" or ").join(type_of(one) for one in schema[several])
    if "const" in schema:
        return escape(json.dumps(schema["const"]))
    if "enum" in schema:
        return Markup(" or ").join(escape(json.dumps(value)) for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return Markup("list of {}").format(type_of(schema.get("items", {})))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(type_of(schema["additionalProperties"]))
    return escape(schema.get("format", kind))


def _operation(method: str, path: str, operation: dict[str, Any]) -> ApiOperation:
    content = operation.get("requestBody", {}).get("content", {})
    body, example, text = None, "", operation.get("description", operation.get("summary", ""))
    for media_type, given in content.items():
        body = type_of(given["schema"]) if media_type == "application/json" else escape(media_type)
        example = json.dumps(given["example"], indent=2) if "example" in given else ""
    return ApiOperation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        brief=_inline(_FIRST_SENTENCE.split(text, maxsplit=1)[0]),
        text=prose(text),
        parameters=[_parameter(each) for each in operation.get("parameters", [])],
        body=body,
        example=example,
        answers=[_answer(*each) for each in sorted(operation["responses"].items())],
        wants_token=bool(operation.get("security")),
    )


def _parameter(given: dict[str, Any]) -> DocumentedField:
    schema = given["schema"]
    return DocumentedField(
        given["name"],
        type_of(schema),
        _bounds(schema),
        prose(given.get("description", schema.get("description", ""))),
        given.get("required", False),
        given["in"],
    )


def _answer(status: str, given: dict[str, Any]) -> tuple[str, Markup, str]:
    kinds = [
        type_of(content["schema"]) if content.get("schema") else escape(media_type)
        for media_type, content in given.get("content", {}).items()
    ]
    return status, Markup(" or ").join(kinds), "" if status < "300" else given["description"]


def _type(name: str, schema: dict[str, Any]) -> ApiType:
    required = schema.get("required", [])
    fields = [
        DocumentedField(each, type_of(given), _bounds(given), prose(given.get("description", "")), each in required)
        for each, given in schema.get("properties", {}).items()
    ]
    return ApiType(name, prose(schema.get("description", "")), type_of(schema), fields)


def _bounds(schema: dict[str, Any]) -> str:
    """What else holds for a value, of all the types that it may have."""
    parts = [schema, *schema.get("anyOf", [])]
    return ", ".join(
        text.format(part[key] if key == "pattern" else json.dumps(part[key]))
        for part in parts
        for key, text in _BOUNDS.items()
        if part.get(key) is not None and not (key == "default" and part[key] in ([], {}))
    )
