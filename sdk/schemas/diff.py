"""How two versions differ: configuration, training, data, scores, weights. `a` is the first that was named."""

from __future__ import annotations

from pydantic import JsonValue

from sdk.schemas.wire import Wire


class Side(Wire):
    """One of the two versions."""

    ref: str
    digest: str
    base: str


class Difference(Wire):
    """A value that differs; None if a version has no such value."""

    #: With dots if it is nested: "lora.rank", "lora.alpha_pattern.q_proj", "quantization.type".
    name: str
    a: JsonValue
    b: JsonValue


class Score(Wire):
    """A metric of both versions, or of one."""

    name: str
    a: float | None
    b: float | None
    #: b - a; None if one is missing, or if both are scores that were not measured in the same way.
    difference: float | None


class EvaluationBrief(Wire):
    """An evaluation that only one of the versions has."""

    id: str
    #: Digest of the dataset.
    dataset: str
    grader: str
    precision: str
    metrics: dict[str, float]


class EvaluationDiff(Wire):
    """The last comparable evaluations of both versions: on the same rows, under the same conditions."""

    #: Digest of the dataset.
    dataset: str
    grader: str
    precision: str
    metrics: list[Score]


class ScoresDiff(Wire):
    """The scores of both versions, including equal ones."""

    #: As training recorded them.
    training: list[Score] = []
    evaluations: list[EvaluationDiff] = []
    only_a: list[EvaluationBrief] = []
    only_b: list[EvaluationBrief] = []


class ModuleDiff(Wire):
    """What both versions do to one module; None if it can't be computed."""

    module: str
    #: ‖ΔW‖, the Frobenius norm of s·B·A; None if the version leaves the module alone, or for a reason given in a note.
    norm_a: float | None
    norm_b: float | None
    #: ⟨ΔW_a, ΔW_b⟩ / (‖ΔW_a‖ ‖ΔW_b‖), from -1 to 1; None if one is absent or zero, or the shapes differ.
    cosine: float | None
    rank_a: int | None
    rank_b: int | None


class WeightsDiff(Wire):
    """What both versions do to their bases, as far as s·B·A says."""

    #: Over the whole adapter, as if all ΔW were one vector.
    norm_a: float
    norm_b: float
    cosine: float | None
    #: Sorted by name.
    modules: list[ModuleDiff]
    #: What the numbers leave out, in sentences.
    notes: list[str]


class Diff(Wire):
    """How two versions differ. If they are the same bytes, everything else is empty."""

    a: Side
    b: Side
    #: Whether both have one digest.
    same: bool
    #: Notes on the comparison as a whole, in sentences.
    notes: list[str] = []
    #: Method, base, LoRA configuration, quantisation.
    configuration: list[Difference] = []
    #: Hyperparameters as training resolved them.
    training: list[Difference] = []
    #: Digest, rows, supervised tokens.
    dataset: list[Difference] = []
    scores: ScoresDiff = ScoresDiff()
    #: None if they were left out.
    weights: WeightsDiff | None = None
