"""Answers that are text: their errors are JSON as everywhere, which FastAPI would not document by itself."""

from __future__ import annotations

from typing import Any

from registry.http.routes import ERRORS

_REPLY = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}


def errors_in_json(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the responses of a route that answers with text, for these errors, or for all if none is named."""
    return {
        status: {"description": said["description"], "headers": dict(said["headers"]), "content": _REPLY}
        for status, said in ERRORS.items()
        if not statuses or status in statuses
    }
