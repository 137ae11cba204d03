"""What requests about adapters name."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Adapter = Annotated[str, Query(max_length=1000, examples=["team/code-review"])]
