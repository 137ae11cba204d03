"""What a training teaches, given the shape of its rows.

>>> objective_of("text-label"), objective_of("preference"), objective_of("messages")
('classify', 'dpo', 'sft')
>>> resolve_objective("simpo", "preference"), traits_of("simpo").has_reference
('simpo', False)
>>> resolve_objective("classify", "prompt")
Traceback (most recent call last):
sdk.formats.objectives.ObjectiveError: the objective 'classify' needs rows of {text, label}, and these are prompt rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

#: "sft": to predict the next token of texts and answers. "classify": to tell which label a text has. "dpo", "ipo", "orpo",
#: "simpo": to prefer one answer to another. "kto": to make desirable answers likelier, and undesirable ones less likely.
Objective = Literal["sft", "classify", "dpo", "ipo", "orpo", "simpo", "kto"]
#: PEFT's name for the task of a model.
TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]


@dataclass(frozen=True)
class ObjectiveTraits:
    """What an objective is, as far as it is known without its arithmetic (`workers.pipelines.data.objectives`)."""

    #: The shapes of the rows that it learns from, and how messages write them.
    shapes: frozenset[str]
    rows: str
    task_type: TaskType = "CAUSAL_LM"
    #: Sequences per row, one after the other: a pair has the chosen answer and the rejected one.
    sequences: int = 1
    #: Whether a model is compared with what it was before: the base, or the version that is continued.
    has_reference: bool = False
    #: Whether the chosen answers' prompts have a loss too.
    learns_prompts: bool = False
    #: Whether rows may share a sequence.
    packs: bool = False
    #: Options that no other kind of training has.
    options: frozenset[str] = frozenset()
    #: The fewest rows of an optimiser step.
    least_rows: int = 1
    #: Sequences per row that are computed without a gradient: by a reference, and for a baseline.
    looked_at: int = 0

    @property
    def has_pairs(self) -> bool:
        """Whether a row is a pair of answers."""
        return self.sequences == 2

    @property
    def predicts_tokens(self) -> bool:
        """Whether the model predicts tokens, rather than labels."""
        return self.task_type == "CAUSAL_LM"

    @property
    def drops_dropout(self) -> bool:
        """Whether the base's own dropout is turned off: a reference that drops something is another one in each pass."""
        return self.has_reference

    @property
    def time(self) -> float:
        """The time of a row, in that of a row of "sft" as long as one of its sequences."""
        return self.sequences + _LOOK * self.looked_at


#: The time of a sequence that is computed without a gradient, in that of one that is learnt (docs/training-options.md).
_LOOK = 0.4


def _of_pairs(options: frozenset[str], *, has_reference: bool, learns_prompts: bool = False) -> ObjectiveTraits:
    return ObjectiveTraits(
        frozenset({"preference"}),
        "{prompt, chosen, rejected}",
        sequences=2,
        has_reference=has_reference,
        learns_prompts=learns_prompts,
        options=options,
        looked_at=2 if has_reference else 0,
    )


#: By name; of those for one shape of rows, the first is what such rows are for if nothing else is asked.
OBJECTIVES: dict[str, ObjectiveTraits] = {
    "sft": ObjectiveTraits(
        frozenset({"prompt", "prompt-completion", "messages", "text"}),
        "{prompt, completion}, {messages} or {text}",
        packs=True,
    ),
    "classify": ObjectiveTraits(frozenset({"text-label"}), "{text, label}", task_type="SEQ_CLS"),
    "dpo": _of_pairs(frozenset({"beta"}), has_reference=True),
    "ipo": _of_pairs(frozenset({"beta"}), has_reference=True),
    "orpo": _of_pairs(frozenset({"beta"}), has_reference=False, learns_prompts=True),
    "simpo": _of_pairs(frozenset({"beta", "simpo_gamma"}), has_reference=False),
    "kto": ObjectiveTraits(
        frozenset({"unpaired-preference"}),
        "{prompt, completion, label} with a label of true or false",
        has_reference=True,
        options=frozenset({"beta", "desirable_weight", "undesirable_weight"}),
        least_rows=2,
        # The row by the reference, and an answer to another prompt by both.
        looked_at=3,
    ),
}


#: What the loss can be asked to be computed on, of conversations: "assistant", all that answers are rendered to; "answer",
#: their content and calls without reasoning; "reasoning", both, where each answer has its reasoning.
LossOn = Literal["completion", "assistant", "answer", "reasoning", "all"]
#: What it was computed on; "label": on the row's label, and none of its tokens.
LearntOn = Literal[LossOn, "label"]
#: Those that know which part of an answer is reasoning.
OF_REASONING: frozenset[LossOn] = frozenset({"answer", "reasoning"})

#: What the loss can be computed on, by the shape of rows; the first is the default.
LOSS_ON: dict[str, tuple[LearntOn, ...]] = {
    "prompt": ("completion", "all"),
    "messages": ("assistant", "answer", "reasoning", "all"),
    "text": ("all",),
    "text-label": ("label",),
    "preference": ("completion",),
    "unpaired-preference": ("completion",),
    "choices": ("completion",),
    "references": ("completion", "all"),
}


#: Rows that are only for evaluations, and their keys.
ONLY_SCORED = {"choices": "{prompt, choices, answer}", "references": "{prompt, references}"}

#: Rows for which no completion is generated.
WITHOUT_COMPLETIONS = frozenset({"text", "text-label", "choices"})


class ObjectiveError(ValueError):
    """An objective, or a loss, that doesn't suit the rows. The message is a sentence without a full stop."""


def traits_of(objective: str | None) -> ObjectiveTraits:
    """Return what an objective is; None: nobody has named one, and "sft" is assumed."""
    return OBJECTIVES[objective or "sft"]


def objective_of(shape: str) -> Objective:
    """Return what rows of a shape are for, unless something else is asked."""
    return cast("Objective", next((name for name, traits in OBJECTIVES.items() if shape in traits.shapes), "sft"))


def resolve_objective(asked: Objective | None, shape: str) -> Objective:
    """Return the objective for rows of a shape. Raises ObjectiveError if they don't suit the one that was asked for."""
    if shape in ONLY_SCORED:
        raise ObjectiveError(f"rows of {ONLY_SCORED[shape]} are for evaluations, and nothing is learnt of them")
    if asked is not None and shape not in OBJECTIVES[asked].shapes:
        needed = OBJECTIVES[asked].rows
        raise ObjectiveError(f"the objective {asked!r} needs rows of {needed}, and these are {shape} rows")
    return asked or objective_of(shape)


def resolve_loss_on(asked: LearntOn | None, shape: str) -> LearntOn:
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
        instead = f"set loss_on to {', '.join(possible[:-1])}{' or ' if possible[:-1] else ''}{possible[-1]}"
        if asked in OF_REASONING:
            raise ObjectiveError(
                f"a loss on {asked!r} needs {{messages}} rows, which keep an answer's reasoning apart, and these are {shape} "
                f"rows; {instead}"
            )
        raise ObjectiveError(f"{shape} rows have nothing for a loss on {asked!r}; {instead}")
    return asked or possible[0]
