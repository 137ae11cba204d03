"""What a caller is told instead of an answer, in the form that OpenAI's clients read.

>>> Declined(404, "not_found", "there is no adapter 'x'; see: adapterctl list", param="model").document()["error"]["code"]
'not_found'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

#: What OpenAI calls the kinds of errors, by status; all others are the server's.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Declined(Exception):  # noqa: N818 - it reads as what happened
    """A request is refused; the message is one sentence that ends with what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Return the body of the answer."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.document(), status_code=self.status, headers=self.headers)


def unknown_model(model: str) -> Declined:
    """Return the one sentence for what there is not, what may not be seen, and what is not served here.

    >>> unknown_model("team/x@v9").message
    "there is no model 'team/x@v9' that this key may use; see: GET /v1/models"
    """
    shown = ascii(model) if len(model) <= 100 else ascii(model[:97]) + "…"
    return Declined(
        404, "not_found", f"there is no model {shown} that this key may use; see: GET /v1/models", param="model"
    )
