"""What the forms of pages hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FormFields(BaseModel):
    """What a form holds beside its CSRF token, and nothing else; by itself, of one that is only a button."""

    model_config = ConfigDict(extra="forbid")
