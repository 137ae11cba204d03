"""What callers give, as what is sent: without files, rows and modules, which `sdk.validation` checks and which take longer to import.

>>> alias_change("code-review", "production", "v3", "better")["expect"]
3
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sdk.errors import InvalidInput
from sdk.names import check_alias, check_name, check_number, parse_ref
from sdk.schemas.catalog import VersionMove
from sdk.schemas.codes import explain_validation
from sdk.schemas.wire import BY_HAND

M = TypeVar("M", bound=BaseModel)


def build(model: type[M], **values: Any) -> M:
    """Build a spec from keywords. Raises InvalidInput that names the field and what is wrong with it."""
    try:
        return model.model_validate(values, context=BY_HAND)
    except ValidationError as error:
        message, param = explain_validation(list(error.errors()), model)
        # A message that says what to give, or to leave, needs no other advice.
        advises = any(f"; {verb} " in message for verb in ("add", "did", "give", "leave", "use", "write"))
        advice = "" if advises else "; correct it, then try again"
        raise InvalidInput(f"{message}{advice}", param=param) from None


def alias_change(
    adapter: str, alias: str, expect: str | int | None, reason: str, *, override: bool = False
) -> dict[str, Any]:
    """Return the fields that every change of an alias has. Raises InvalidName, InvalidRef, InvalidInput for an override without a
    reason.
    """
    check_override(reason, override=override)
    return {
        "adapter": check_name(adapter),
        "alias": check_alias(alias),
        "expect": None if expect is None else check_number(expect),
        "reason": reason,
        "override": override,
    }


def check_override(reason: str, *, override: bool) -> None:
    """Raise InvalidInput for an override without a reason."""
    if override and not reason.strip():
        raise InvalidInput("an override stays in the audit trail, and needs a reason; give one", param="reason")


def version_move(ref: str, reason: str) -> VersionMove:
    """Return the request to move a version to another state. Raises InvalidName, InvalidRef."""
    return build(VersionMove, ref=str(parse_ref(ref)), reason=reason)


def require_numbered(ref: str, number: int | None) -> int:
    """Return the number of the version that a ref names. Raises InvalidInput for one in quarantine, which has none."""
    if number is None:
        raise InvalidInput(
            f"{ref} is in quarantine and has no number, so no alias can name it; ask an admin to release it",
            param="ref",
        )
    return number
