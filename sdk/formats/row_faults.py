"""What can be wrong with a row, where that is told apart from the rest."""

from __future__ import annotations


class EmptyField(ValueError):  # noqa: N818 - a fault of a row, as the other ValueErrors of rows are
    """A row without anything under a key that it needs; the message is the rest of a sentence about the row."""
