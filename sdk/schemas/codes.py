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
#: What other types of errors are about.
_FORMS = {
    "bytes_type": "bytes",
    "date_from_datetime_parsing": "a date, such as 2026-11-30",
    "date_parsing": "a date, such as 2026-11-30",
    "datetime_from_date_parsing": "a time with its zone, such as 2026-11-30T12:00:00Z",
    "datetime_parsing": "a time with its zone, such as 2026-11-30T12:00:00Z",
    "datetime_type": "a time with its zone, such as 2026-11-30T12:00:00Z",
    "dict_type": "an object of keys and values",
    "list_type": "a list",
    "mapping_type": "an object of keys and values",
    "model_attributes_type": "an object of keys and values",
    "model_type": "an object of keys and values",
    "timezone_aware": "a time with its zone, such as 2026-11-30T12:00:00Z",
    "tuple_type": "a list",
}
#: Numbers from here on are bounds of the storage alone, of which nobody who reads a message thinks.
_ENDLESS = 2**53
#: Bounds, by the field's names and by the error's.
_LOWER, _UPPER = ("ge", "gt"), ("le", "lt")
_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_KIND_OF_ERROR = {"bool": bool, "int": int, "float": float, "string": str}


def unfit(error: Mapping[str, Any], field: FieldInfo | None = None, *, item: bool = False) -> str | None:
    """Return what to say about a value that pydantic refuses, as the rest of a sentence that begins with the option;
    None if pydantic's own words are as good. Without the field, only the exceeded bound is known. `item`: the value is one of
    the option's list.
    """
    kind, context = str(error["type"]), error.get("ctx") or {}
    # A registry doesn't keep what it was sent.
    known, given, verb = "input" in error, error.get("input"), "contain" if item else "be"
    if kind == "string_too_short" and context.get("min_length") == 1:
        return "can't be empty; give a value, or leave it out"
    if kind == "less_than_equal" and context["le"] >= _ENDLESS:
        return "is too large; use a smaller number"
    if kind == "string_too_long":
        how = f", with {len(given)} characters" if isinstance(given, str) else ""
        return f"is too long{how}; use at most {context['max_length']}{'' if how else ' characters'}"
    if kind in ("too_long", "too_short"):
        some = f"at most {context['max_length']}" if kind == "too_long" else f"at least {context['min_length']}"
        if not known:
            return f"has too {'many' if kind == 'too_long' else 'few'} items; give {some}"
        return f"has {len(given)} items; give {some}" if given else f"is empty; give {some}"
    wanted = _FORMS.get(kind)
    if wanted is None and kind in _OF_RANGE:
        wanted = _wanted(kind, context) if field is None else range_of(field)
    if wanted is None:
        return None
    if not known:
        return f"has an item of another kind; use {wanted} for each" if item else f"must be {wanted}"
    return f"can't {verb} {_shown(given)}; use {wanted}"


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
    bounds = {name: bound for name, bound in bounds.items() if name not in _UPPER or bound < _ENDLESS}
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
        return "a number so large"
    # 8.0 is what a command line makes of 8.
    said = ascii(value).removesuffix(".0") if isinstance(value, float) else ascii(value)
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
    parts: dict[str, None] = {}
    first: str | None = None
    for error in errors[:5]:
        # Names of fields come from the sender, and may be as long as a whole body.
        place = [str(piece)[:100] for piece in error["loc"][:12] if piece not in ("body", "query")]
        first = first or ".".join(place) or None
        parts[_sentence(error, place, model)] = None
    if len(errors) > 5:
        parts[f"and {len(errors) - 5} more"] = None
    return "; ".join(parts), first


def _sentence(error: Mapping[str, Any], place: list[str], model: type[BaseModel] | None) -> str:
    """Return what to say of one error, with the field's name if it has one."""
    item = bool(place) and isinstance(error["loc"][-1], int)
    named = _written(place[:-1] if item else place)
    kind = str(error["type"])
    if kind == "json_invalid":
        why = (error.get("ctx") or {}).get("error", "it ends early")
        return f"the body is not JSON ({why}); correct it, then send it again"
    if kind == "extra_forbidden":
        return f"there is no field {named}; {_nearest(model, place)}"
    if kind == "missing":
        return f"{named or 'the body'} is missing; add it"
    field = _field_at(model, place)
    if (refused := unfit(error, field, item=item)) is not None:
        return f"{named or 'the body'} {refused}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{_written(place)}: {message}" if place else message


def _nearest(model: type[BaseModel] | None, place: list[str]) -> str:
    """Return what to do about a field that a model doesn't have: the one that is meant, if there is one like it."""
    import difflib

    names = model.model_fields if model is not None and len(place) == 1 else ()
    near = difflib.get_close_matches(place[-1], names, n=1)
    return f"did you mean {near[0]}?" if near else "leave it out"


def _field_at(model: Any, place: list[str]) -> FieldInfo | None:
    """Return the field of a model, or of one in it, that a place names; an item of a list has the list's kind of items."""
    field = None
    for piece in place:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(piece)
            model = None if field is None else plain_type(field.annotation)
        elif get_origin(model) in (list, tuple, dict):
            field = FieldInfo.from_annotation(get_args(model)[-1])
            model = plain_type(field.annotation)
        else:
            return None
    return field


def _written(place: list[str]) -> str:
    """Return a place as people write it: parents[0].weight."""
    return "".join(f"[{piece}]" if piece.isdecimal() else f".{piece}" for piece in place).removeprefix(".")
