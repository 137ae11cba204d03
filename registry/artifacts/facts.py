"""What is kept of a file's content in addition to its hash: bytes that were looked into once are not read again."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ValidationError

from sdk.schemas.wire import Wire


class Facts(Wire):
    """What is known of one kind of file, as JSON; it follows from the bytes alone, whoever has sent them."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return self.model_dump()

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """Return facts that were kept, or None if they are of another kind or version: then the bytes have to be read
        again.
        """
        try:
            return cls.model_validate(value)
        except ValidationError:
            return None

    def replaces(self, kept: Any) -> bool:
        """Whether these are to be kept instead of what is stored already, which belongs to others too."""
        return self.from_json(kept) is None

    def beside(self, kept: Any) -> dict[str, Any]:
        """Return what to keep once the files were admitted; `kept` is what is stored already, and stays if it can be
        read.
        """
        return self.to_json() if self.from_json(kept) is None else kept
