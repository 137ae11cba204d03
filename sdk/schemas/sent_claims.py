"""What a folder that is pushed tells of its version, as it is sent to a registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdk.formats.about_file import MOST_ABOUT_BYTES
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.wire import Wire


class SentClaims(Wire):
    """What a folder tells, and perhaps who has signed that."""

    #: `about.json` as it lies in the folder.
    text: Annotated[str, Field(min_length=2, max_length=MOST_ABOUT_BYTES)]
    #: Over exactly these bytes, as the file `about.json`.
    signature: SignedManifest | None = None

    def canonical(self) -> bytes:
        """Return the bytes that are signed."""
        return self.text.encode()
