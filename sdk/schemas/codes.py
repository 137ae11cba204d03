"""Error replies, as sent over the API, and the wording for what pydantic refuses: what a field may be, in words.

>>> from sdk.schemas.training import TrainingSpec
>>> [range_of(TrainingSpec.model_fields[name]) for name in ("rank", "holdout", "quant_type", "use_dora")]
['a whole number from 1 to 1024', 'a number above 0 and below 1', 'nf4, fp4 or int8', 'true or false']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sdk.formats.error_codes import ErrorCode as ErrorCode
from sdk.schemas.wire import Wire

_MOST_SHOWN = 60
#: Types of errors for which the field's range says everything.
_OF_RANGE = (
    "bool_parsing",
    "bool_type",
    "finite_number",
    "float_parsing",
    "float_type",
    "greater_than",
    "greater_than_equal",
    "int_from_float",
    "int_parsing",
    "int_parsing_size",
    "int_type",
    "less_than",
    "less_than_equal",
    "literal_error",
    "string_too_long",
    "string_too_short",
    "string_type",
)
#: Bounds, by the field's names and by the error's.
_LOWER, _UPPER = ("ge", "gt"), ("le", "lt")
_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_KIND_OF_ERROR = {"bool": bool, "int": int, "float": float, "string": str}


def unfit(error: Mapping[str, Any], field: FieldInfo | None = None) -> str | None:
    """Return what to say about a value that pydantic refuses, as the rest of a sentence that begins with the option;
    None if pydantic's own words are as good. Without the field, only the exceeded bound is known.
    """
    kind = str(error["type"])
    if kind not in _OF_RANGE or "input" not in error:
        return None
    wanted = _wanted(kind, error.get("ctx") or {}) if field is None else range_of(field)
    return None if wanted is None else f"{_shown(error['input'])} can't be; give {wanted}"


def range_of(field: FieldInfo) -> str | None:
    """Return what a field may be; None if it is neither a number, a text, a choice nor a boolean."""
    bounds: dict[str, Any] = {}
    kind = plain_type(field.annotation, bounds)
    _take(field.metadata, bounds)
    if get_origin(kind) is Literal:
        *most, last = map(str, get_args(kind))
        return f"{', '.join(most)} or {last}" if most else last
    if kind not in _KINDS:
        return None
    if kind is str:
        return _text(bounds)
    return f"{_KINDS[kind]}{_within(bounds, whole=kind is int)}"


def plain_type(annotation: Any, bounds: dict[str, Any] | None = None) -> Any:
    """Return the type of an annotation, ignoring None; its bounds are added to `bounds`."""
    while True:
        if get_origin(annotation) is Annotated:
            _take(annotation.__metadata__, {} if bounds is None else bounds)
            annotation = annotation.__origin__
        elif get_origin(annotation) in (Union, UnionType):
            some = [part for part in get_args(annotation) if part is not type(None)]
            if len(some) != 1:
                return None
            annotation = some[0]
        else:
            return annotation


def _take(metadata: Any, bounds: dict[str, Any]) -> None:
    for found in _flat(metadata):
        for name in (*_LOWER, *_UPPER, "min_length", "max_length"):
            if getattr(found, name, None) is not None:
                bounds[name] = getattr(found, name)


def _flat(metadata: Any) -> Iterator[Any]:
    for found in metadata:
        yield from _flat(found.metadata) if isinstance(found, FieldInfo) else (found,)


def _within(bounds: Mapping[str, Any], *, whole: bool) -> str:
    lower = next((name for name in _LOWER if name in bounds), None)
    upper = next((name for name in _UPPER if name in bounds), None)
    if whole and lower == "ge" and upper == "le":
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [f"{words[name]} {_number(bounds[name])}" for name in (lower, upper) if name is not None]
    return f" {' and '.join(said)}" if said else ""


def _text(bounds: Mapping[str, Any]) -> str:
    least, most = bounds.get("min_length"), bounds.get("max_length")
    if most is None:
        return "a text that is not empty" if least else "a text"
    return f"a text of {least or 0} to {most} characters"


def _wanted(kind: str, context: Mapping[str, Any]) -> str | None:
    """Return what is expected, as far as the error alone tells."""
    if "expected" in context:
        return str(context["expected"])
    if bounds := {name: context[name] for name in (*_LOWER, *_UPPER) if name in context}:
        return f"a number{_within(bounds, whole=False)}"
    if kind == "finite_number":
        return "a finite number"
    named = _KIND_OF_ERROR.get(kind.partition("_")[0])
    return None if named is None or named is str else _KINDS[named]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > _MOST_SHOWN * 3:
        return "so large a number"
    said = ascii(value)
    return said if len(said) <= _MOST_SHOWN else f"{said[:_MOST_SHOWN]}…"


class ErrorBody(Wire):
    """What went wrong, in one sentence that ends with what to do next."""

    code: str
    message: str
    #: The field, option or file that is at fault.
    param: str | None = None


class ErrorReply(Wire):
    """The body of every reply that is not a success, and of errors on stderr with `--format json`."""

    error: ErrorBody


def explain_validation(errors: list[Any], model: type[BaseModel] | None = None) -> tuple[str, str | None]:
    """Turn pydantic's list of errors into one sentence and the dotted name of the first field; with a known `model`,
    the sentence says what the fields may be.
    """
    parts = []
    first: str | None = None
    for error in errors[:5]:
        # Names of fields come from the sender, and may be as long as a whole body.
        where = ".".join(str(piece)[:100] for piece in error["loc"][:12] if piece not in ("body", "query"))
        if first is None and where:
            first = where
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "there is no such field"
        elif error["type"] == "missing":
            message = "it is missing; give it"
        else:
            field = None if model is None or len(error["loc"]) != 1 else model.model_fields.get(error["loc"][0])
            message = unfit(error, field) or message
        parts.append(f"{where}: {message}" if where else message)
    if len(errors) > 5:
        parts.append(f"and {len(errors) - 5} more")
    return "; ".join(parts), first
