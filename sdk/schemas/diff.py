"""How two versions differ: configuration, training, data, scores, weights. `a` is the first that was named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    #: As in `EvaluationDiff`; empty: there is no other.
    condition: str = ""
    metrics: dict[str, float]


class EvaluationDiff(Wire):
    """The last comparable evaluations of both versions: on the same rows, under the same conditions."""

    #: Digest of the dataset.
    dataset: str
    grader: str
    precision: str
    #: In what these scores differ from others of this diff on the same rows: "loss+rouge_l", "max_length 512"; empty: there are
    #: no others.
    condition: str = ""
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

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from (("a", self.a.ref), ("b", self.b.ref), ("same", self.same))
        differing = len(self.configuration) + len(self.training) + len(self.dataset)
        yield "differing", differing

    def _repr_html_(self) -> str:
        from sdk.formats.html_tables import facts, page, sentence, table
        from sdk.schemas.score_order import in_order_asked

        sides = ["", self.a.ref, self.b.ref]
        same = "The same bytes." if self.same else ""
        parts = [
            table(f"{self.a.ref} → {self.b.ref}", sides, _sides(self.a, self.b)),
            *(sentence(note) for note in (same, *self.notes) if note),
        ]
        for name in ("configuration", "training", "dataset"):
            rows = [[one.name, one.a, one.b] for one in getattr(self, name)]
            parts += [table(name.capitalize(), sides, rows)] if rows else []
        scored = [("training", self.scores.training)]
        scored += [
            (", ".join(filter(None, (one.dataset[:12], one.condition))), one.metrics) for one in self.scores.evaluations
        ]
        for name, scores in scored:
            by_name = {one.name: one for one in scores}
            rows = [_compared(by_name[name], self) for name in in_order_asked(by_name)]
            parts += [table(f"Scores: {name}", [*sides, "difference", "better", "winner"], rows)] if rows else []
        for side, only in ((self.a.ref, self.scores.only_a), (self.b.ref, self.scores.only_b)):
            rows = [[one.id, one.dataset[:12], one.condition, one.metrics] for one in only]
            parts += (
                [table(f"Scores that only {side} has", ["id", "dataset", "condition", "scores"], rows)] if rows else []
            )
        if (found := self.weights) is not None:
            whole: list[tuple[str, object]] = [
                (f"norm of ΔW of {self.a.ref}", found.norm_a),
                (f"norm of ΔW of {self.b.ref}", found.norm_b),
                ("cosine", found.cosine),
            ]
            modules = [
                [one.module, one.norm_a, one.norm_b, one.cosine, one.rank_a, one.rank_b] for one in found.modules
            ]
            named = ["module", "norm a", "norm b", "cosine", "rank a", "rank b"]
            parts += [facts("Weights", whole), table("By module", named, modules, most=20) if modules else ""]
            parts += [sentence(note) for note in found.notes]
        return page(*parts)


def _compared(one: Score, found: Diff) -> list[object]:
    """Return the row of a score: on both sides, which way is better, and whose is."""
    from sdk.schemas.score_order import better_of, direction, of_training

    metric = of_training(one.name)
    winner = better_of(metric, one.a, one.b) if one.difference is not None else None
    return [
        one.name,
        one.a,
        one.b,
        one.difference,
        direction(metric),
        {"a": found.a.ref, "b": found.b.ref}.get(winner or ""),
    ]


def _sides(a: Side, b: Side) -> list[list[object]]:
    return [["digest", a.digest[:12], b.digest[:12]], ["base", a.base, b.base]]
