"""Answers that are text: their errors are JSON as everywhere, which FastAPI would not say of them by itself."""

from __future__ import annotations

from typing import Any

from registry.http.routes import ERRORS

_REPLY = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}


def errors_in_json(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: what a route that answers with text says of these errors; of all where none is named."""
    return {
        status: {"description": said["description"], "headers": dict(said["headers"]), "content": _REPLY}
        for status, said in ERRORS.items()
        if not statuses or status in statuses
    }
