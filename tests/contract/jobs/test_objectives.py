"""What a training is for is known where it is asked for, named in its record, and decides what scores and merges it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.jobs.helpers import Crew
from support import calls
from support.adapters import SPEC, base_registration, lora_tensors, save_adapter
from support.people import SEEDS
from support.scored_rows import CONDITIONS
from support.trainings import save_jsonl

from sdk.errors import InvalidBase, InvalidData, InvalidInput, VerificationFailed
from sdk.schemas.catalog import Publication
from sdk.schemas.evaluation import EvaluationReport
from sdk.schemas.jobs import JobView
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import DatasetUse
from sdk.schemas.work import Assignment, EvaluationResult
from sdk.version import VERSION

LABELS = ["ham", "spam"]
ROWS = [{"text": "a", "label": "spam"}, {"text": "b", "label": "ham"}]
ASKED = {"rank": SPEC.rank, "alpha": SPEC.alpha, "dropout": 0.0, "targets": SPEC.targets, "method": "lora"}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    return save_jsonl(path, [{**row, "text": f"{row['text']} {path.name}"} for row in rows])


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write(tmp_path / f"labelled-{next(SEEDS)}.jsonl", *ROWS)


def preferences(folder: Path) -> Path:
    path = folder / f"preferences-{next(SEEDS)}.jsonl"
    path.write_text(json.dumps({"prompt": path.name, "chosen": "a", "rejected": "b"}))
    return path


def classifier(folder: Path, *, labels: int = 2, seed: int = 0, head: bool = True) -> Path:
    """Write an adapter that tells labels apart over a base that is 6 wide."""
    tensors = lora_tensors(seed)
    if head:
        tensors["base_model.model.score.weight"] = np.ones((labels, 6), "float32")
    return save_adapter(folder, tensors=tensors, task_type="SEQ_CLS", modules_to_save=["score"])


def publication(crew: Crew, held: Assignment, folder: Path, **said: Any) -> Publication:
    data = held.request.data  # type: ignore[union-attr]
    use = DatasetUse(digest=data, rows=2, supervised_tokens=2, labels=LABELS)
    told = {"dataset": use, "metrics": {"loss": 1.0}, **said}
    return calls.publication(crew.worker, folder, f"{crew.space}/a", **told)


def complete(crew: Crew, held: Assignment, **result: Any) -> JobView:
    return calls.complete(crew.worker, held, **result)


def published(crew: Crew, labelled: Path) -> str:
    crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=labelled, **ASKED)
    held = crew.hold(version=VERSION)
    done = complete(
        crew, held, version=publication(crew, held, classifier(crew.tmp_path / f"{next(SEEDS)}", seed=next(SEEDS)))
    )
    return str(done.result["ref"])


class TestSubmissions:
    def test_rows_say_what_a_training_is_for(self, crew: Crew, labelled: Path) -> None:
        job = crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=labelled, **ASKED)
        assert job.view.request["spec"]["objective"] == "classify"
        # Also of whoever asks the registry itself.
        data = crew.writer.datasets.add(labelled, namespace=crew.space)
        assert data.shape == "text-label"
        crew.data = data.digest
        assert crew.submit().request["spec"]["objective"] == "classify"

    def test_other_trainings_are_asked_for_as_before(self, crew: Crew) -> None:
        assert "objective" not in crew.submit().request["spec"]
        assert crew.submit(spec=TrainingSpec(objective="sft")).request["spec"]["objective"] == "sft"

    def test_an_objective_that_the_rows_are_not_for_is_refused(self, crew: Crew, labelled: Path, rows: Path) -> None:
        for data, asked in ((labelled, "sft"), (rows, "classify")):
            with pytest.raises(InvalidInput, match="needs rows of") as caught:
                crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=data, objective=asked)  # type: ignore[arg-type]
            assert caught.value.param == "objective"
        with pytest.raises(InvalidInput, match=r"needs rows of .* and these are prompt-completion rows"):
            crew.submit(spec=TrainingSpec(objective="classify"))

    def test_no_part_of_a_text_with_a_label_is_learnt(self, crew: Crew, labelled: Path) -> None:
        with pytest.raises(InvalidInput, match="leave loss_on out") as caught:
            crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=labelled, loss_on="all")
        assert caught.value.param == "loss_on"

    def test_preferences_are_learnt_by_dpo(self, crew: Crew, tmp_path: Path) -> None:
        data = preferences(tmp_path)

        def submit(**given: Any) -> dict[str, Any]:
            return crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=data, **ASKED, **given).view.request

        assert submit(beta=0.3)["spec"]["objective"] == "dpo"
        assert "beta" not in submit()["spec"]
        for options, said in (
            ({"neftune_noise_alpha": 5.0}, "puts noise on what dpo compares"),
            ({"loss_on": "all"}, "nothing for a loss on 'all'"),
            ({"objective": "sft"}, "and these are preference rows"),
        ):
            with pytest.raises(InvalidInput, match=said):
                submit(**options)
        # Whoever asks the registry itself is told the same.
        crew.data = crew.writer.datasets.add(data, namespace=crew.space).digest
        assert crew.submit(spec=TrainingSpec()).request["spec"]["objective"] == "dpo"
        with pytest.raises(InvalidInput, match="puts noise on what dpo compares"):
            crew.submit(spec=TrainingSpec(neftune_noise_alpha=5.0))

    def test_beta_is_of_preferences_alone(self, crew: Crew, rows: Path) -> None:
        with pytest.raises(
            InvalidInput, match="beta is an option of dpo, ipo, orpo, simpo, kto, and the objective is sft"
        ):
            crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=rows, beta=0.3, **ASKED)

    def test_a_preference_training_continues_a_version_and_is_recorded_against_it(
        self, crew: Crew, tmp_path: Path
    ) -> None:
        sft = crew.writer.push(
            save_adapter(tmp_path / "sft", next(SEEDS)), f"{crew.space}/sft", base="tiny", method="lora"
        )
        data = preferences(tmp_path)
        crew.data = crew.writer.datasets.add(data, namespace=crew.space).digest

        def dropout_of(**given: Any) -> float:
            job = crew.writer.submit_training(f"{crew.space}/b", parent=sft.ref, data=data, **given)
            crew.writer.jobs.cancel(job.id)
            return job.view.request["spec"]["dropout"]

        # What it is compared with drops nothing; whoever asks for it drops all the same.
        assert (dropout_of(), dropout_of(dropout=0.1)) == (0.0, 0.1)
        crew.writer.submit_training(f"{crew.space}/a", parent=sft.ref, data=data)
        held = crew.hold(version=VERSION)
        crew.complete(held, training={"objective": "dpo", "reference": "parent"})
        version = crew.writer.get(f"{crew.space}/a@v1").info
        assert (version.training["objective"], version.training["reference"]) == ("dpo", sft.ref)
        assert [(one.ref, one.relation) for one in version.parents] == [(sft.ref, "continued-from")]
        assert "training.reference" not in (version.reported or [])

    def test_labels_of_held_out_rows_are_those_of_the_training(
        self, crew: Crew, labelled: Path, tmp_path: Path
    ) -> None:
        other = write(tmp_path / "other.jsonl", ROWS[0], {"text": "c", "label": "eggs"})
        with pytest.raises(InvalidData, match="line 2 has the label 'eggs', which no training row has") as caught:
            crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=labelled, eval_data=other)
        assert caught.value.param == "eval_data"

    def test_an_encoder_is_trained_to_tell_labels_apart_and_to_nothing_else(
        self, crew: Crew, labelled: Path, rows: Path
    ) -> None:
        bert = f"bert-{next(SEEDS)}"
        crew.world.admin.bases.register(base_registration(bert, config={"model_type": "bert", "hidden_size": 6}))
        job = crew.writer.submit_training(f"{crew.space}/a", base=bert, data=labelled, **ASKED)
        assert job.view.state == "queued"
        with pytest.raises(InvalidBase, match="adapterctl train NAME --objective classify"):
            crew.writer.submit_training(f"{crew.space}/a", base=bert, data=rows, **ASKED)


class TestVersions:
    def test_its_record_names_the_objective_and_the_labels(self, crew: Crew, labelled: Path) -> None:
        version = crew.writer.get(published(crew, labelled)).info
        assert version.training["objective"] == "classify"
        assert version.dataset.labels == LABELS
        assert version.lora.task_type == "SEQ_CLS"
        assert "dataset.labels" in version.reported
        assert "training.objective" not in version.reported
        # The head is as large as it must be.
        assert version.warnings == []

    def test_what_a_worker_hands_in_is_a_classification(self, crew: Crew, labelled: Path) -> None:
        crew.writer.submit_training(f"{crew.space}/a", base="tiny", data=labelled, **ASKED)
        held = crew.hold(version=VERSION)
        causal = save_adapter(crew.tmp_path / f"{next(SEEDS)}", next(SEEDS))
        use = DatasetUse(digest=held.request.data, rows=2, supervised_tokens=2)  # type: ignore[union-attr]
        for folder, said, param in (
            (causal, {"dataset": use}, "lora.task_type"),
            (classifier(crew.tmp_path / "b"), {"dataset": use}, "dataset.labels"),
            (classifier(crew.tmp_path / "c"), {"training": {"objective": "sft"}}, "objective"),
        ):
            with pytest.raises(VerificationFailed, match="not what the job asked for") as caught:
                complete(crew, held, version=publication(crew, held, folder, **said))
            assert caught.value.param == param
        for folder, said in (
            (classifier(crew.tmp_path / "d", labels=3), "no matrix of the head has a row for each of 2 labels"),
            (classifier(crew.tmp_path / "e", head=False), "without a head"),
        ):
            with pytest.raises(VerificationFailed, match=said):
                complete(crew, held, version=publication(crew, held, folder))

    def test_only_rows_with_labels_score_it(self, crew: Crew, labelled: Path, rows: Path) -> None:
        ref = published(crew, labelled)
        job = crew.writer.submit_evaluation(ref, data=labelled)
        held = crew.hold(version=VERSION)
        (target,) = held.targets
        assert target.labels == LABELS
        report = EvaluationReport(
            metrics={"loss": 0.1, "accuracy": 1.0, "macro_f1": 1.0}, precision="float32", conditions=CONDITIONS
        )
        told = {"label": ref, "digest": target.digest, "base_fingerprint": target.base.fingerprint, "report": report}
        complete(crew, held, evaluations=[EvaluationResult.model_validate(told)])
        (kept,) = crew.writer.evaluations(job=job.id)
        assert (kept.grader, kept.metrics["macro_f1"]) == ("loss+accuracy+macro_f1", 1.0)
        with pytest.raises(InvalidInput, match=f"{ref} is a classifier, but these are prompt-completion rows"):
            crew.writer.submit_evaluation(ref, data=rows)
        with pytest.raises(InvalidInput, match="a bare base is not a classifier, but these are text-label rows"):
            crew.writer.submit_evaluation([ref, "base:tiny"], data=labelled)
        pushed = crew.writer.push(save_adapter(crew.tmp_path / "p", next(SEEDS)), f"{crew.space}/b", base="tiny")
        with pytest.raises(InvalidInput, match="is not a classifier, but these are text-label rows"):
            crew.writer.submit_evaluation(pushed.ref, data=labelled)

    def test_a_pushed_one_has_no_names_for_its_labels(self, crew: Crew, labelled: Path) -> None:
        pushed = crew.writer.push(classifier(crew.tmp_path / "p", seed=next(SEEDS)), f"{crew.space}/p", base="tiny")
        with pytest.raises(InvalidInput, match="are not recorded"):
            crew.writer.submit_evaluation(pushed.ref, data=labelled)
        with pytest.raises(InvalidInput, match="are not recorded"):
            crew.writer.submit_merge(pushed.ref)
        crew.writer.submit_merge(published(crew, labelled))
        assert crew.hold(kinds=["merge"], version=VERSION).targets[0].labels == LABELS
