"""The common base of everything that travels as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from sdk.formats.canonical_json import canonical_json as canonical_json
from sdk.formats.canonical_json import digest_of as digest_of

#: A whole SHA-256 in lower-case hexadecimal, 64 characters, without a prefix.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Wire(BaseModel):
    """A strict, frozen record: unknown fields and coerced types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
