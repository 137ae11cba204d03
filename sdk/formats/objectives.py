"""What a training teaches, which the shape of its rows says.

>>> objective_of("text-label"), objective_of("messages")
('classify', 'sft')
>>> resolve_objective("classify", "prompt")
Traceback (most recent call last):
sdk.formats.objectives.ObjectiveError: the objective 'classify' needs rows of {text, label}, and these are prompt rows
"""

from __future__ import annotations

from typing import Literal

#: "sft": to predict the next token of texts and answers. "classify": to tell which label a text has.
Objective = Literal["sft", "classify"]
_ROWS = {"sft": "{prompt, completion}, {messages} or {text}", "classify": "{text, label}"}


class ObjectiveError(ValueError):
    """An objective that rows are not for. The message is a sentence without its end."""


def objective_of(shape: str) -> Objective:
    """Return what rows of a shape are for."""
    return "classify" if shape == "text-label" else "sft"


def resolve_objective(asked: Objective | None, shape: str) -> Objective:
    """Return what rows of a shape are for. Raises ObjectiveError if something else was asked for."""
    found = objective_of(shape)
    if asked not in (None, found):
        raise ObjectiveError(f"the objective {asked!r} needs rows of {_ROWS[asked]}, and these are {shape} rows")
    return found
