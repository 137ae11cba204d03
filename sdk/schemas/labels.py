"""The names of tokens and workers, which people choose freely."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from sdk.formats.visible_labels import parse_label

#: The name of a token: who holds it.
TokenName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(parse_label)]
#: The name of a worker.
WorkerName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(parse_label)]
