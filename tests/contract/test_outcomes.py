"""What a worker hands in is what its job asked for: a worker that says otherwise is refused, and what only it knows is
marked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import calls
from support.adapters import ASKED, SPEC, digest, save_adapter, use_of
from support.people import SEEDS, new_adapter, submit
from support.registries import World

from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, InvalidTargets, JobFailed, VerificationFailed
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import Parent, Publication, Published
from sdk.schemas.evaluation import Conditions, EvaluationFailure, EvaluationReport, FourBitWeights, MergeReport, Sample
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import CheckpointPublication, CheckpointView, JobSubmission, JobView
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.recorded import Rendering
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.work import (
    Assignment,
    CheckpointRecord,
    EvaluationResult,
    MergeResult,
    Release,
)
from sdk.version import VERSION
from workers.kinds.causes import of_error


@dataclass
class Desk:
    """A namespace with a writer and a worker, who has one job at a time."""

    writer: Client
    worker: Client
    space: str
    data: str
    tmp_path: Path

    @property
    def name(self) -> str:
        return f"{self.space}/a"

    def claim(self) -> Assignment:
        return calls.hold(self.worker, name=f"w-{self.space}", version=VERSION)

    def train(self, spec: TrainingSpec = SPEC, template_date: str | None = None, **base: Any) -> Assignment:
        """Submit a training and let the worker claim it."""
        choice = BaseChoice(**{"id": "tiny", "fingerprint": digest("tiny: base"), **base})
        request = TrainingRequest(
            adapter=self.name, base=choice, data=self.data, spec=spec, template_date=template_date
        )
        submit(self.writer, JobSubmission(request=request))
        return self.claim()

    def publication(self, folder: Path | None = None, *, base: str = "tiny: base", **said: Any) -> Publication:
        """Send an adapter, and say of it what a worker says."""
        told = {"dataset": use_of(self.data), "metrics": {"loss": 1.0}, **said}
        return calls.publication(self.worker, folder or new_adapter(self.tmp_path), self.name, base=base, **told)

    def complete(self, held: Assignment, **result: Any) -> JobView:
        return calls.complete(self.worker, held, **result)

    def refused(self, held: Assignment, param: str, **result: Any) -> None:
        """Hand in what was not asked for; the job goes on, and nothing is published."""
        with pytest.raises(VerificationFailed, match="not what the job asked for") as caught:
            self.complete(held, **result)
        assert caught.value.param == param
        assert self.writer.jobs.view(held.job).state == "running"
        # The worker says so, and it is final.
        assert of_error(caught.value).reason == "verification"


@pytest.fixture
def desk(people: World, acting: Callable[..., Client], space: str, rows: Path, tmp_path: Path) -> Desk:
    writer = acting(**{space: Role.WRITER})
    data = writer.datasets.add(rows, namespace=space).digest
    return Desk(writer, acting(**{space: Role.WORKER}), space, data, tmp_path)


RENDERING = Rendering(templates=["a" * 64], methods={"turns": 2}, template_date="2026-01-31", stop_ids=[7])
NF4 = QuantizationRecipe()
CONDITIONS = Conditions(
    loss_on="completion", max_length=1024, generated_rows=32, max_new_tokens=48, stop_ids=[7], tokenizer="b" * 64
)


class TestTrainings:
    def test_what_was_asked_for_is_recorded_and_the_rest_is_marked(self, desk: Desk) -> None:
        held = desk.train()
        said = {**ASKED, "loss_on": "completion", "max_length": 256, "device": "cpu"}
        done = desk.complete(held, version=desk.publication(training=said, libraries={"torch": "2"}))
        version = desk.writer.get(done.result["ref"]).info
        assert (version.training, version.method) == (said, "lora")
        assert version.reported == [
            "dataset.rows",
            "dataset.supervised_tokens",
            "libraries",
            "metrics",
            "training.device",
            "training.loss_on",
            "training.max_length",
        ]
        assert desk.writer.versions(desk.name)[0].info == version

    def test_what_a_worker_leaves_out_is_written_down_as_it_was_asked_for(self, desk: Desk) -> None:
        spec = SPEC.model_copy(update={"loss_on": "completion", "max_steps": 7, "seed": 3})
        done = desk.complete(desk.train(spec), version=desk.publication())
        asked = {"loss_on": "completion", "epochs": None, "max_steps": 7, "total_steps": 7, "seed": 3}
        assert desk.writer.get(done.result["ref"]).info.training == {**ASKED, **asked}

    def test_one_that_moves_no_prediction_by_its_own_word_is_not_published(self, desk: Desk) -> None:
        held = desk.train()
        for gap in (0.0, 9e-7):
            said = {"loss": 1.0, "probe_logit_gap": gap}
            with pytest.raises(VerificationFailed, match=r"moves no logit .* changes nothing; train again") as caught:
                desk.complete(held, version=desk.publication(metrics=said))
            assert of_error(caught.value).reason == "verification"
        assert (
            desk.complete(held, version=desk.publication(metrics={**said, "probe_logit_gap": 1e-6})).result is not None
        )

    def test_one_that_made_things_worse_is_a_version_with_warnings(self, desk: Desk) -> None:
        worse = {
            "loss": 7.3,
            "first_loss": 6.5,
            "last_loss": 7.1,
            "eval_loss_base": 6.6,
            "eval_loss": 7.72,
            "largest_update": 4e5,
        }
        held = desk.train()
        done = desk.complete(held, version=desk.publication(metrics=worse, training={"held_out_rows_in_training": 2}))
        version = desk.writer.get(done.result["ref"]).info
        assert version.warnings == done.result["warnings"]
        assert [warning.partition(";")[0] for warning in version.warnings] == [
            "2 of the held-out rows are training rows too, so their loss says too little",
            "the loss of the held-out rows rose from 6.6 to 7.72, so they are predicted worse than before",
            "the training's loss ended above its beginning (6.5 → 7.1)",
            "the update of a module is 4e+05 times as large as its weights (‖ΔW‖/‖W‖)",
        ]
        better = {
            "loss": 7.0,
            "first_loss": 6.5,
            "last_loss": 6.6,
            "eval_loss_base": 6.6,
            "eval_loss": 6.6,
            "largest_update": 1.0,
        }
        done = desk.complete(desk.train(), version=desk.publication(metrics=better))
        assert (desk.writer.get(done.result["ref"]).info.warnings, done.result.get("warnings")) == ([], None)

    def test_modules_of_a_preset_are_the_worker_s_word(self, desk: Desk) -> None:
        held = desk.train(SPEC.model_copy(update={"targets": "qv"}))
        done = desk.complete(held, version=desk.publication())
        version = desk.writer.get(done.result["ref"]).info
        assert "lora.target_modules" in (version.reported or [])

    def test_a_base_that_only_a_worker_could_fingerprint_is_taken_at_its_word(self, desk: Desk) -> None:
        held = desk.train(id="tests/tiny", revision="0" * 40, fingerprint=None)
        assert desk.complete(held, version=desk.publication()).state == "succeeded"

    def test_what_a_pusher_says_is_marked_too(self, desk: Desk, tmp_path: Path) -> None:
        pushed = desk.writer.push(save_adapter(tmp_path / "pushed", next(SEEDS)), desk.name, base="tiny", method="lora")
        assert pushed.info.reported == ["method"]

    @pytest.mark.parametrize(
        ("spec", "param"),
        [
            ({"rank": 3}, "lora.rank"),
            ({"alpha": 5.0}, "lora.alpha"),
            ({"alpha": None, "rank": 1}, "lora.rank"),
            ({"dropout": 0.1}, "lora.dropout"),
            ({"targets": "q_proj"}, "lora.target_modules"),
            # What a pattern or an exclusion comes to is named wholly.
            ({"targets": r".*\.(q|v)_proj"}, "lora.target_modules"),
            ({"method": "qlora"}, "method"),
        ],
    )
    def test_bytes_of_another_spec_are_refused(self, desk: Desk, spec: dict[str, Any], param: str) -> None:
        """Admission holds the record against the bytes, so a record that is as asked for can't be of other bytes."""
        desk.refused(desk.train(TrainingSpec(**{**SPEC.model_dump(), **spec})), param, version=desk.publication())

    @pytest.mark.parametrize("targets", ["k_proj,q_proj", "lm_head"])
    def test_targets_that_the_base_lacks_are_refused_at_submit(self, desk: Desk, targets: str) -> None:
        with pytest.raises(
            InvalidTargets, match=r"base tiny has no linear module .*; name some of these as targets: q_proj"
        ):
            desk.train(SPEC.model_copy(update={"targets": targets}))

    @pytest.mark.parametrize(
        "said", [{"lr": 1e-3}, {"seed": 1}, {"epochs": 1.0}, {"batch_size": 8}, {"method": "qlora"}]
    )
    def test_a_report_of_another_spec_is_refused(self, desk: Desk, said: dict[str, Any]) -> None:
        (param,) = said
        desk.refused(desk.train(), param, version=desk.publication(training={**ASKED, **said}))

    def test_where_a_version_comes_from_is_not_the_worker_s_to_say(self, desk: Desk) -> None:
        held, made = desk.train(), desk.publication()
        for name in (
            "reference",
            "base",
            "dataset",
            "parent",
            "parents",
            "job",
            "eval_data",
            "ref",
            "digest",
            "created_by",
        ):
            said = made.model_copy(update={"training": {**ASKED, name: "others/secret@v1"}})
            desk.refused(held, f"training.{name}", version=said)

    def test_an_option_that_nobody_asked_for_was_not_used(self, desk: Desk) -> None:
        held, made = desk.train(), desk.publication()
        options = {"holdout": 0.5, "holdout_by": "user", "weight_decay": 0.1, "packing": True, "beta": 2.0}
        for name, value in options.items():
            desk.refused(held, name, version=made.model_copy(update={"training": {**ASKED, name: value}}))
        # What it is without being asked for may be said.
        said = {**ASKED, **{name: getattr(SPEC, name) for name in options}}
        assert desk.complete(held, version=made.model_copy(update={"training": said})).state == "succeeded"

    @pytest.mark.parametrize("length", [0, -1, 1025, 1.5, "1024", None])
    def test_rows_are_not_longer_than_was_asked_for(self, desk: Desk, length: Any) -> None:
        desk.refused(desk.train(), "max_length", version=desk.publication(training={"max_length": length}))

    def test_another_dataset_or_none_is_refused(self, desk: Desk) -> None:
        held = desk.train()
        for dataset in (use_of(digest("another")), None):
            desk.refused(held, "dataset", version=desk.publication(dataset=dataset))

    def test_another_base_is_refused(self, people: World, desk: Desk) -> None:
        from support.adapters import base_registration

        people.admin.bases.register(base_registration("other"))
        desk.refused(desk.train(), "base", version=desk.publication(base="other: base"))

    def test_what_nobody_asked_for_is_refused(self, desk: Desk, tmp_path: Path) -> None:
        parent = desk.writer.push(save_adapter(tmp_path / "parent", next(SEEDS)), desk.name, base="tiny")
        held = desk.train()
        for name, said in {
            "parents": [Parent(ref=parent.ref, relation="continued-from")],
            "tags": {"approved": "yes"},
            "description": "the best of all",
            "unknown": ["dataset"],
        }.items():
            desk.refused(held, name, version=desk.publication(**{name: said}))
        desk.refused(held, "method", version=desk.publication(quantization=NF4, method="qlora"))
        folder = save_adapter(tmp_path / "rslora", next(SEEDS), use_rslora=True)
        desk.refused(held, "lora.use_rslora", version=desk.publication(folder))

    def test_a_record_that_is_not_that_of_the_bytes_is_refused_by_admission(self, desk: Desk, tmp_path: Path) -> None:
        held = desk.train(SPEC.model_copy(update={"alpha": 32.0}))
        honest = desk.publication()
        body = honest.model_copy(update={"lora": honest.lora.model_copy(update={"alpha": 32.0})})
        with pytest.raises(VerificationFailed, match="disagree on alpha"):
            desk.complete(held, version=body)


class TestCheckpoints:
    def record(self, desk: Desk, held: Assignment, *, base: str = "tiny: base", **said: Any) -> CheckpointView:
        given = desk.publication(base=base)
        told = {
            "lora": given.lora,
            "quantization": None,
            "rows": 1,
            "supervised_tokens": 1,
            "training": dict(ASKED),
            "metrics": {"loss": 1.0},
            "libraries": {},
        }
        body = CheckpointRecord(
            attempt=held.attempt,
            step=1,
            total=2,
            upload=str(given.upload),
            manifest=given.manifest.model_copy(update={"kind": "checkpoint"}),
            report=TrainingReport(**{**told, **said}),
        )
        return desk.worker.call("POST", f"/jobs/{held.job}/checkpoints", CheckpointView, body=body)

    def test_one_of_another_training_is_neither_kept_nor_published(self, desk: Desk) -> None:
        held = desk.train()
        wrong: list[dict[str, Any]] = [
            {"training": {**ASKED, "lr": 1.0}},
            {"quantization": NF4},
            {"base": "another base"},
        ]
        for said in wrong:
            with pytest.raises(VerificationFailed, match="not what the job asked for"):
                self.record(desk, held, **said)
        assert desk.writer.jobs.checkpoints(held.job) == []
        assert self.record(desk, held).step == 1

    def test_one_that_an_earlier_release_kept_is_looked_at_when_it_is_published(
        self, people: World, desk: Desk
    ) -> None:
        from registry.jobs.models import Checkpoint

        held = desk.train()
        self.record(desk, held)
        with people.services.db.write() as session:
            row = session.get_one(Checkpoint, (held.job, 1))
            row.report = {**row.report, "training": {"lr": 1.0}}
        path = f"/jobs/{held.job}/checkpoints/1/publish"
        with pytest.raises(VerificationFailed, match=r"lr is 1\.0, not 0\.0002"):
            desk.writer.call("POST", path, Published, body=CheckpointPublication())


class TestMerges:
    def merged(
        self, desk: Desk, *, base: str = "tiny: base", path: str = "model.safetensors", **said: Any
    ) -> MergeResult:
        model = desk.tmp_path / f"model-{next(SEEDS)}"
        model.write_bytes(str(next(SEEDS)).encode())
        sha256, size = hash_file(model)
        return MergeResult(
            manifest=Manifest(
                kind="merged",
                base_fingerprint=digest(base),
                files=[ManifestFile(path=path, size_bytes=size, sha256=sha256)],
            ),
            upload=desk.worker.uploader.upload({sha256: model}, "sending"),
            report=MergeReport(**{"onto": "original", "dtype": "float16", "metrics": {"kl": 0.0}, **said}),
        )

    def test_one_over_another_base_or_made_otherwise_is_refused(self, desk: Desk, tmp_path: Path) -> None:
        version = desk.writer.push(save_adapter(tmp_path / "merged", next(SEEDS)), desk.name, base="tiny")
        desk.writer.submit_merge(version.ref, onto="original", dtype="float16")
        held = desk.claim()
        desk.refused(held, "base", merge=self.merged(desk, base="another base"))
        desk.refused(held, "onto", merge=self.merged(desk, onto="dequantized"))
        desk.refused(held, "dtype", merge=self.merged(desk, dtype="float32"))
        packed = FourBitWeights(type="nf4", double_quant=True, block_size=64, weights=1, furthest=0.1)
        desk.refused(held, "quantize", merge=self.merged(desk, quantized=packed))
        with pytest.raises(VerificationFailed, match="would run when it is loaded"):
            desk.complete(held, merge=self.merged(desk, path="modeling.py"))
        done = desk.complete(held, merge=self.merged(desk))
        assert done.result["reported"] == ["report.libraries", "report.metrics"]


class TestEvaluations:
    def scores(self, desk: Desk, held: Assignment, **said: Any) -> list[EvaluationResult]:
        report = EvaluationReport(
            **{"metrics": {"loss": 1.0}, "precision": "float32", "conditions": CONDITIONS, **said}
        )
        return [
            EvaluationResult(
                label=target.label, digest=target.digest, base_fingerprint=digest("tiny: base"), report=report
            )
            for target in held.targets
        ]

    def evaluate(
        self, desk: Desk, rows: Path, recipe: QuantizationRecipe | None, precision: str, **said: Any
    ) -> Assignment:
        adapter = save_adapter(desk.tmp_path / f"scored-{next(SEEDS)}", next(SEEDS))
        version = desk.writer.push(adapter, desk.name, base="tiny", quantization=recipe)
        desk.writer.submit_evaluation(
            [version.ref, "base:tiny"], data=rows, precision=precision, keep_samples=1, **said
        )
        return desk.claim()

    @pytest.mark.parametrize(
        ("recipe", "asked", "right", "wrong"),
        [
            (None, "native", "bfloat16", "nf4"),
            (NF4, "native", "float32", "nf4"),
            (NF4, "as-trained", "nf4", "float32"),
            (None, "as-trained", "float16", "nf4"),
            (NF4, "nf4", "nf4", "fp4"),
        ],
    )
    def test_scores_at_another_precision_are_refused(
        self, desk: Desk, rows: Path, recipe: QuantizationRecipe | None, asked: str, right: str, wrong: str
    ) -> None:
        held = self.evaluate(desk, rows, recipe, asked)
        label = held.targets[0].label
        desk.refused(held, f"precision of {label}", evaluations=self.scores(desk, held, precision=wrong))
        assert desk.complete(held, evaluations=self.scores(desk, held, precision=right)).state == "succeeded"

    def test_more_samples_than_were_asked_for_are_refused(self, desk: Desk, rows: Path) -> None:
        held = self.evaluate(desk, rows, None, "native")
        samples = [Sample(prompt="a", reference="b", completion="b")] * 2
        label = held.targets[0].label
        desk.refused(held, f"keep_samples of {label}", evaluations=self.scores(desk, held, samples=samples))

    def test_a_target_without_scores_is_named_and_the_others_are_kept(self, desk: Desk, rows: Path) -> None:
        held = self.evaluate(desk, rows, None, "native")
        first, second = self.scores(desk, held, conditions=CONDITIONS)
        failure = EvaluationFailure(reason="adapter", message="its files don't fit")
        failed = first.model_copy(update={"report": None, "failure": failure})
        none = [each.model_copy(update={"report": None, "failure": failure}) for each in (first, second)]
        with pytest.raises(InvalidInput, match="without any scores"):
            desk.complete(held, evaluations=none)
        done = desk.complete(held, evaluations=[failed, second])
        assert done.state == "succeeded"
        assert done.result["failed"] == [{"ref": first.label, "reason": "adapter", "message": "its files don't fit"}]
        (kept,) = desk.writer.evaluations(job=held.job)
        assert (kept.ref, kept.conditions) == (second.label, CONDITIONS.model_dump(mode="json"))
        assert [kept.id] == done.result["evaluations"]
        with pytest.raises(JobFailed, match=r"scored 1 of 2 targets, whose scores are kept; .*its files don't fit"):
            desk.writer.job(held.job).result()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_length", 2048),
            ("loss_on", "all"),
            ("generated_rows", 33),
            ("max_new_tokens", 47),
            ("max_thought_tokens", 5),
            ("columns", "text=t"),
        ],
    )
    def test_scores_taken_otherwise_than_was_asked_for_are_refused(
        self, desk: Desk, rows: Path, name: str, value: object
    ) -> None:
        held = self.evaluate(desk, rows, None, "native", loss_on="completion")
        said = {"generated_rows": 32, name: value}
        conditions = CONDITIONS.model_copy(update=said)
        label = held.targets[0].label
        asked = {"generated_rows": "generate_rows"}.get(name, name)
        desk.refused(held, f"{asked} of {label}", evaluations=self.scores(desk, held, conditions=conditions))

    def test_a_metric_that_was_asked_for_is_there(self, desk: Desk, rows: Path) -> None:
        held = self.evaluate(desk, rows, None, "native", metrics=["rouge_l", "chrf"])
        label = held.targets[0].label
        lacking = self.scores(desk, held, conditions=CONDITIONS, metrics={"loss": 1.0, "rouge_l": 0.5})
        desk.refused(held, f"metrics of {label}", evaluations=lacking)
        whole = self.scores(desk, held, conditions=CONDITIONS, metrics={"loss": 1.0, "rouge_l": 0.5, "chrf": 40.0})
        assert desk.complete(held, evaluations=whole).state == "succeeded"


class TestRendering:
    """The day that templates are told and the tokens that generation stops at are the job's and the version's."""

    def test_the_day_of_a_job_is_the_one_on_which_it_was_accepted(self, desk: Desk) -> None:
        before = datetime.now(UTC).date()
        held = desk.train()
        day = held.request.template_date
        assert day in {before.isoformat(), datetime.now(UTC).date().isoformat()}
        desk.worker.call("POST", f"/jobs/{held.job}/release", JobView, body=Release(attempt=held.attempt))
        again = desk.claim()
        assert (again.job, again.attempt, again.request.template_date) == (held.job, held.attempt + 1, day)
        assert desk.writer.jobs.view(held.job).request["template_date"] == day

    def test_a_version_is_evaluated_on_its_day_and_stops_where_it_was_taught_to(self, desk: Desk, rows: Path) -> None:
        held = desk.train(template_date="2026-01-31")
        use = use_of(desk.data).model_copy(update={"rendering": RENDERING})
        wrong = use.model_copy(update={"rendering": RENDERING.model_copy(update={"template_date": "2026-02-01"})})
        desk.refused(held, "template_date", version=desk.publication(dataset=wrong))
        mapped = use.model_copy(update={"rendering": RENDERING.model_copy(update={"columns": "text=body"})})
        desk.refused(held, "dataset.rendering.columns", version=desk.publication(dataset=mapped))
        done = desk.complete(held, version=desk.publication(dataset=use))
        version = desk.writer.get(done.result["ref"]).info
        assert version.dataset == use
        assert "dataset.rendering" in (version.reported or [])
        desk.writer.submit_evaluation([version.ref, "base:tiny"], data=rows)
        scored = desk.claim()
        assert [(target.template_date, target.stop_ids) for target in scored.targets] == [
            ("2026-01-31", [7]),
            (None, []),
        ]
        assert scored.request.template_date != "2026-01-31"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("rendering.json", RENDERING.model_copy(update={"stop_ids": [8]}).canonical()),
            ("chat_template.jinja", b"another"),
        ],
    )
    def test_what_travels_for_serving_is_what_the_record_says(
        self, desk: Desk, tmp_path: Path, name: str, content: bytes
    ) -> None:
        held = desk.train(template_date="2026-01-31")
        template = b"{{ messages }}"
        rendering = RENDERING.model_copy(update={"templates": [hashlib.sha256(template).hexdigest()]})
        use = use_of(desk.data).model_copy(update={"rendering": rendering})
        folder = new_adapter(tmp_path)
        right = {"rendering.json": rendering.canonical(), "chat_template.jinja": template}
        for each, written in {**right, name: content}.items():
            (folder / each).write_bytes(written)
        with pytest.raises(VerificationFailed, match=re.escape(name)):
            desk.complete(held, version=desk.publication(folder, dataset=use))
        (folder / name).write_bytes(right[name])
        done = desk.complete(held, version=desk.publication(folder, dataset=use))
        pulled = desk.writer.pull(done.result["ref"])
        assert {each: (pulled / each).read_bytes() for each in right} == right

    def test_a_day_is_a_day(self, desk: Desk) -> None:
        with pytest.raises(ValueError, match="template_date"):
            desk.train(template_date="2026-02-31")
