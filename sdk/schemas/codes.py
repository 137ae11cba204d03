"""Error replies, as sent over the API, and the wording for what pydantic refuses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from sdk.formats.error_codes import ErrorCode as ErrorCode
from sdk.schemas.ranges import unfit
from sdk.schemas.wire import Wire


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
