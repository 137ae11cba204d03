"""Codes with which somebody who has a token signs a browser in."""

from __future__ import annotations

from typing import Annotated

from registry.http.routes import Reader, room, service
from registry.web.sessions.service import Sessions
from sdk.schemas.access import SignInCodeView

router = room("", "people")


@router.post("/sign-in-codes", status_code=201)
def create_sign_in_code(sessions: Annotated[Sessions, service(Sessions)], who: Reader) -> SignInCodeView:
    """Make a code that signs a browser in to the pages as the caller: once, within a minute, at `/ui/code?code=…`."""
    return sessions.code(who=who)
