"""What a training teaches, given the shape of its rows.

>>> objective_of("text-label"), objective_of("preference"), objective_of("messages")
('classify', 'dpo', 'sft')
>>> resolve_objective("classify", "prompt")
Traceback (most recent call last):
sdk.formats.objectives.ObjectiveError: the objective 'classify' needs rows of {text, label}, and these are prompt rows
"""

from __future__ import annotations

from typing import Literal

#: "sft": to predict the next token of texts and answers. "classify": to tell which label a text has. "dpo": to prefer one
#: answer to another (direct preference optimisation, arXiv:2305.18290).
Objective = Literal["sft", "classify", "dpo"]
_ROWS = {
    "sft": "{prompt, completion}, {messages} or {text}",
    "classify": "{text, label}",
    "dpo": "{prompt, chosen, rejected}",
}
#: PEFT's name for the task of a model that learns it.
TASK_TYPES: dict[Objective, Literal["CAUSAL_LM", "SEQ_CLS"]] = {
    "sft": "CAUSAL_LM",
    "classify": "SEQ_CLS",
    "dpo": "CAUSAL_LM",
}
#: Sequences per row, one after the other: a preference has the chosen answer and the rejected one.
SEQUENCES: dict[Objective, int] = {"sft": 1, "classify": 1, "dpo": 2}
_BY_SHAPE: dict[str, Objective] = {"text-label": "classify", "preference": "dpo"}


#: What the loss can be computed on, by the shape of rows; the first is the default.
LOSS_ON: dict[str, tuple[str, ...]] = {
    "prompt": ("completion", "all"),
    "messages": ("assistant", "all"),
    "text": ("all",),
    "text-label": ("label",),
    "preference": ("completion",),
    "choices": ("completion",),
    "references": ("completion", "all"),
}


#: Rows that are only for evaluations, and their keys.
ONLY_SCORED = {"choices": "{prompt, choices, answer}", "references": "{prompt, references}"}

#: Rows for which no completion is generated.
WITHOUT_COMPLETIONS = frozenset({"text", "text-label", "choices"})


class ObjectiveError(ValueError):
    """An objective, or a loss, that doesn't suit the rows. The message is a sentence without a full stop."""


def objective_of(shape: str) -> Objective:
    """Return what rows of a shape are for."""
    return _BY_SHAPE.get(shape, "sft")


def resolve_objective(asked: Objective | None, shape: str) -> Objective:
    """Return the objective for rows of a shape. Raises ObjectiveError if they don't suit the one that was asked for."""
    if shape in ONLY_SCORED:
        raise ObjectiveError(f"rows of {ONLY_SCORED[shape]} are for evaluations, and nothing is learnt of them")
    found = objective_of(shape)
    if asked not in (None, found):
        raise ObjectiveError(f"the objective {asked!r} needs rows of {_ROWS[asked]}, and these are {shape} rows")
    return found


def resolve_loss_on(asked: str | None, shape: str) -> str:
    """Return what the loss is computed on for rows of a shape. Raises ObjectiveError if the rows don't allow it.

    >>> resolve_loss_on(None, "messages")
    'assistant'
    >>> resolve_loss_on("assistant", "prompt-completion")
    Traceback (most recent call last):
    sdk.formats.objectives.ObjectiveError: prompt-completion rows have nothing for a loss on 'assistant'; set loss_on to completion or all
    """
    possible = LOSS_ON["prompt" if shape == "prompt-completion" else shape]
    if shape == "text-label" and asked is not None:
        raise ObjectiveError("text-label rows have their loss always on the label; leave loss_on out")
    if asked is not None and asked not in possible:
        raise ObjectiveError(
            f"{shape} rows have nothing for a loss on {asked!r}; set loss_on to {' or '.join(possible)}"
        )
    return asked or possible[0]
