"""What a worker makes of an evaluation whose targets fail, and in which precision bare bases are held."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.scored_rows import CONDITIONS
from support.wordnets import save_wordnet

from sdk.errors import NotFound
from sdk.formats.canonical_json import digest_of
from sdk.schemas.evaluation import EvaluationFailure, EvaluationReport, EvaluationSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import Assignment, BaseSource, Completion, TargetSource
from workers.kinds.attempt import Attempt
from workers.kinds.causes import AttemptFailed
from workers.kinds.evaluation import EVALUATION
from workers.node.wordnet import wordnet_digest
from workers.pipelines.orders import EvaluationOrder, EvaluationScores, WordNet

SCORES = EvaluationReport(metrics={"loss": 1.0}, precision="float32", conditions=CONDITIONS)
FAILED = EvaluationFailure(reason="adapter", message="its files don't fit")
#: The versions that tests ask for, the bases that they are over, and how these were held in training.
KNOWN: dict[str, tuple[str, QuantizationRecipe | None]] = {
    "a@v2": ("one", None),
    "a@v1": ("one", QuantizationRecipe()),
    "b@v1": ("two", QuantizationRecipe(type="fp4")),
}


@dataclass
class Bench:
    """An attempt whose child finds what a test says; some adapters can't be had."""

    asked: list[tuple[str, str | None]]
    outcomes: list[Any]
    missing: tuple[str, ...] = ()
    orders: list[EvaluationOrder] = field(default_factory=list)
    completed: list[Completion] = field(default_factory=list)
    metrics: list[Any] | None = None
    wordnet: Path | None = None
    folder: Path = Path("/nonexistent")
    client: Any = None

    @property
    def assignment(self) -> Assignment:
        targets = [
            EvaluationTarget(base=BaseChoice(id=label[5:], fingerprint=digest_of(label[5:])), beside=beside)
            if label.startswith("base:")
            else EvaluationTarget(ref=label, beside=beside)
            for label, beside in cast("list[tuple[str, Any]]", self.asked)
        ]
        request = EvaluationRequest(
            targets=targets,
            data=digest_of("rows"),
            again=True,
            template_date="2026-01-31",
            spec=EvaluationSpec(metrics=self.metrics),
        )
        given = [_source(label) for label, _ in self.asked]
        return Assignment(job="j", attempt=1, lease_s=1.0, request=request, targets=given)

    @property
    def inputs(self) -> Any:
        def base(source: BaseSource) -> Any:
            return SimpleNamespace(folder=Path(source.id), registration=SimpleNamespace(fingerprint=source.fingerprint))

        def adapter(manifest: Manifest) -> Path:
            label = next(label for label in KNOWN if _manifest(label) == manifest)
            if label in self.missing:
                raise NotFound(f"the files of {label} are gone")
            return Path(label)

        given = {"base": base, "adapter": adapter, "wordnet": self.wordnet}
        return SimpleNamespace(**given, dataset=lambda digest: Path("rows"), kept=lambda found: None)

    def run_child(self, order: EvaluationOrder, _report: type[EvaluationScores]) -> EvaluationScores:
        self.orders.append(order)
        return EvaluationScores(outcomes=self.outcomes)

    def complete(self, completion: Completion) -> None:
        self.completed.append(completion)

    def carry_out(self) -> None:
        EVALUATION.carry_out(cast(Attempt, self), cast(EvaluationRequest, self.assignment.request))


def _manifest(label: str) -> Manifest:
    file = ManifestFile(path="adapter_config.json", size_bytes=1, sha256=digest_of(label))
    return Manifest(kind="adapter", base_fingerprint=digest_of(KNOWN[label][0]), files=[file])


def _source(label: str) -> TargetSource:
    name, recipe = KNOWN.get(label, (label.removeprefix("base:"), None))
    base = BaseSource(id=name, revision=None, fingerprint=digest_of(name), location=None)
    files = _manifest(label) if label in KNOWN else None
    return TargetSource(label=label, digest=files and files.digest, manifest=files, base=base, quantization=recipe)


def test_what_is_beside_fails_alone() -> None:
    bench = Bench([("a@v2", None), ("base:one", "base"), ("a@v1", "production")], [SCORES, FAILED, FAILED])
    bench.carry_out()
    (done,) = bench.completed
    assert [result.failure is None for result in done.evaluations or []] == [True, False, False]


def test_scores_of_what_is_beside_are_no_answer() -> None:
    bench = Bench([("a@v2", None), ("base:one", "base")], [FAILED, SCORES])
    with pytest.raises(AttemptFailed, match="its files don't fit") as failed:
        bench.carry_out()
    assert failed.value.reason is FailureReason.ADAPTER
    # Asked for by its name, it is one.
    bench = Bench([("a@v2", None), ("base:one", None)], [FAILED, SCORES])
    bench.carry_out()
    assert bench.completed


def test_without_the_files_of_all_that_was_asked_for_nothing_is_computed() -> None:
    bench = Bench([("a@v2", None), ("base:one", "base"), ("a@v1", "production")], [], missing=("a@v2",))
    with pytest.raises(NotFound, match=r"a@v2 are gone"):
        bench.carry_out()
    assert bench.orders == []
    bench = Bench([("a@v2", None), ("a@v1", "production")], [SCORES], missing=("a@v1",))
    bench.carry_out()
    assert [item.adapter for item in bench.orders[0].items] == [Path("a@v2")]


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (("a@v1", "base:one"), ["nf4", "nf4"]),
        # The first over it counts, and where there is none, the first.
        (("a@v2", "a@v1", "base:one"), [None, "nf4", None]),
        (("a@v2", "b@v1", "base:two"), [None, "fp4", "fp4"]),
        (("b@v1", "base:one"), ["fp4", "fp4"]),
        (("base:one",), [None]),
    ],
)
def test_a_bare_base_is_held_as_adapters_over_it_were_trained(asked: tuple[str, ...], held: list[str | None]) -> None:
    bench = Bench([(label, None) for label in asked], [SCORES] * len(asked))
    bench.carry_out()
    found = [item.quantization and item.quantization.type for item in bench.orders[0].items]
    assert found == held


def test_a_bare_base_reads_rows_by_the_template_of_the_first_adapter_over_it() -> None:
    asked = ("base:one", "b@v1", "a@v2", "a@v1", "base:two", "base:three")
    bench = Bench([(label, None) for label in asked], [SCORES] * len(asked))
    bench.carry_out()
    found = [item.rendered_as for item in bench.orders[0].items]
    assert found == [Path("a@v2"), None, None, None, Path("b@v1"), None]


def test_meteor_is_scored_with_the_worker_s_wordnet_or_not_at_all(tmp_path: Path) -> None:
    bench = Bench([("a@v2", None)], [SCORES], metrics=["meteor"])
    with pytest.raises(AttemptFailed, match="This worker has no WordNet, which meteor needs") as failed:
        bench.carry_out()
    assert failed.value.reason is FailureReason.SPEC
    assert bench.orders == []
    bench.wordnet = save_wordnet(tmp_path / "dict")
    bench.carry_out()
    assert bench.orders[0].wordnet == WordNet(folder=bench.wordnet, digest=wordnet_digest(bench.wordnet))


class Untouched:
    """An attempt of which nothing may be used yet."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is used")


def test_a_scorer_that_is_not_here_ends_the_attempt_at_once() -> None:
    asked = {"targets": [{"ref": "a@v1"}], "data": "a" * 64, "spec": {"scorers": ["nobody_has_this"]}}
    attempt: Any = Untouched()
    with pytest.raises(
        AttemptFailed, match=r"This worker has no scorer 'nobody_has_this' \(it has none\); install"
    ) as caught:
        EVALUATION.carry_out(attempt, EvaluationRequest.model_validate(asked))
    assert caught.value.reason == "spec"
