"""Settings that a program reads from environment variables, checked by the types of their fields.

>>> from dataclasses import make_dataclass
>>> Limits = make_dataclass("Limits", [("lease_s", Positive), ("warm", Switch)])
>>> read_settings(Limits, {"lease_s": "X_LEASE_S", "warm": "X_WARM"}, {"X_LEASE_S": "5", "X_WARM": "1"}, refused=ValueError)
Limits(lease_s=5.0, warm=True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("is neither 0 nor 1; set it to one of them")
    return text == "1"


def _whole(text: str) -> int:
    # pydantic would also take "5.0".
    try:
        return int(text)
    except ValueError:
        raise ValueError("is not a whole number; set it to one") from None


#: A number above 0.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: A number above 0, or 0 if that means no limit, or never.
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: A whole number above 0.
Count = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
#: "1" for yes, "0" for no.
Switch = Annotated[bool, BeforeValidator(_switch)]

_WRONG = {
    "int_parsing": "is not a whole number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "greater_than": "is not a number above {gt:g}",
    "greater_than_equal": "is not a number from {ge:g} on",
    "less_than": "is not a number below {lt:g}",
}


def read_settings(
    kind: type[T],
    variables: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    refused: Callable[..., Exception],
    examples: Mapping[str, str] | None = None,
) -> T:
    """Build a dataclass of settings, each field from its variable; an empty variable counts as not set.

    A field's validator raises ValueError with the rest of a sentence that begins with the variable's name. No values
    are shown except those of a choice, since some are secret. `examples` has an example for each field without a
    default.

    Raises the error that `refused` returns: it gets a sentence for each variable that is missing or wrong, and the
    first of these variables as `param`.
    """
    given = {field: environ[variable] for field, variable in variables.items() if environ.get(variable)}
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        sentences = [_sentence(variables[str(fault["loc"][0])], fault, examples or {}) for fault in faults]
        raise refused(". ".join(sentences), param=variables[str(faults[0]["loc"][0])]) from None


def _sentence(variable: str, fault: ErrorDetails, examples: Mapping[str, str]) -> str:
    known: dict[str, Any] = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            example = examples[str(fault["loc"][0])]
            return f"{variable} is not set; set it, for example {variable}={example}"
        case "literal_error":
            return f"{variable} is {fault['input'][:80]!a}; set it to {known['expected']}"
        case "value_error":
            return f"{variable} {known['error']}"
        case wrong:
            return f"{variable} {_WRONG.get(wrong, 'is not a number').format(**known)}; set it to one"
