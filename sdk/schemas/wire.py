"""The common base class of everything that is sent as JSON.

What is sent to a registry is strict. What another program wrote, perhaps a newer release, is read by `read` and
`read_json`: unknown fields are ignored. To show it, it is read `open_ended`: if a field is `Open`, a member that only
the writer knows stays as text. Code that acts on what it reads doesn't use `open_ended`, and gets an error for what it
doesn't understand.

>>> Page[int](items=[1, 2], next=None).items
[1, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sdk.formats.canonical_json import canonical_json as canonical_json
from sdk.formats.canonical_json import digest_of as digest_of

#: Marks a field that is left out while it is None.
IF_SET = Field(exclude_if=lambda value: value is None)
#: Marks a field that is left out while it is None, empty, 0 or false.
IF_ANY = Field(exclude_if=lambda value: not value)

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def _require_scalar(value: Any) -> Any:
    """Refuse lists and objects with one error: each member of a union would have its own, which takes a kilobyte."""
    if isinstance(value, (dict, list)):
        raise PydanticCustomError("scalar_type", "Input should be a text, a number, true, false or null")
    return value


JsonScalar = Annotated[str | int | float | bool | None, BeforeValidator(_require_scalar)]

#: A whole SHA-256 in lower-case hexadecimal, 64 characters, without a prefix.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

#: The validation context for reading something in order to show it.
_OPEN_ENDED = {"open_ended": True}
#: The validation context for options that a person writes: lists are allowed where requests have one text.
BY_HAND = {"by_hand": True}


class Wire(BaseModel):
    """A strict, frozen record: unknown fields and coerced types are errors.

    Its schema is built when it is first used: a command uses a few of hundreds, and all take 0.08 s.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("Any", kind))


def read(kind: type[T], value: Any, *, open_ended: bool = False) -> T:
    """Return the record for a plain value that another program wrote. Raises ValidationError."""
    found: T = _adapter(cast("Hashable", kind)).validate_python(
        value, extra="ignore", context=_OPEN_ENDED if open_ended else None
    )
    return found


def read_json(kind: type[T], text: str | bytes, *, open_ended: bool = False) -> T:
    """Return the record for a JSON text that another program wrote. Raises ValidationError."""
    found: T = _adapter(cast("Hashable", kind)).validate_json(
        text, extra="ignore", context=_OPEN_ENDED if open_ended else None
    )
    return found


def _or_in_showing(
    of: type[T], otherwise: Callable[[T, ValidatorFunctionWrapHandler], Any]
) -> Callable[[Any, ValidatorFunctionWrapHandler, ValidationInfo], Any]:
    """Return a validator that accepts what its schema accepts; values of type `of` are converted by `otherwise` if they
    are read to be shown.
    """

    def validate(value: Any, known: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return known(value)
        except ValidationError:
            if not isinstance(value, of) or info.context is not _OPEN_ENDED:
                raise
            return otherwise(value, known)

    return validate


class Open:
    """Marks an enumeration that a newer release may know more members of, as in `Annotated[Literal["a", "b"],
    Open]`.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The enumeration's own schema, extended for unknown members."""

        def unknown(value: str, _: ValidatorFunctionWrapHandler) -> Any:
            return member_of(source, value) if isinstance(source, type) else value

        # An unknown member is written as it was read.
        written = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        validate = _or_in_showing(str, unknown)
        return core_schema.with_info_wrap_validator_function(validate, handler(source), serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        """The known members."""
        return handler(schema["schema"])


class Known:
    """Marks a list from which a reader drops items that only a newer release can read, as in `Annotated[list[Node],
    Known]`.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The list's own schema, tried item by item if it doesn't hold for all."""

        def readable(value: list[Any], known: ValidatorFunctionWrapHandler) -> list[Any]:
            return [item for each in value for item in _readable(known, each)]

        return core_schema.with_info_wrap_validator_function(_or_in_showing(list, readable), handler(source))


def _readable(known: ValidatorFunctionWrapHandler, item: Any) -> Any:
    try:
        return known([item])
    except ValidationError:
        return []


def member_of(kind: type[E], text: str) -> E:
    """Return the member of an enumeration with this text; for unknown text, a member that equals no
    other.
    """
    try:
        return kind(text)
    except ValueError:
        made = str.__new__(kind, text)
        made._name_, made._value_ = text.upper(), text
        return made


class Page(Wire, Generic[T]):
    """One page of a list. Rows that are added meanwhile don't move others to another page."""

    items: list[T]
    #: Where the next page begins: send it back as `cursor`. None: this is the last page.
    next: str | None = None
