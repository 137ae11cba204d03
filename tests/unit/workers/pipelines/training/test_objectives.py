"""The objectives of trainings: each is TRL's on one batch, and the same whatever the parts in which a step is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.evaluated import score
from support.objectives import batch_of, step_loss
from support.trained import Trained
from support.trainings import LABELLED, PREFERENCES, run_training, save_jsonl, whole_and_resumed
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdk.formats import objectives
from sdk.formats.objectives import OBJECTIVES, ObjectiveTraits
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT, loss_sum
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.kto import area_under_curve, mismatched
from workers.pipelines.data.objective import Batch, Look
from workers.pipelines.data.objectives import MADE
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

SPEC = TrainingSpec(beta=0.3, max_length=256)
#: Of each objective that answers are preferred by, with options other than the defaults.
SPECS = {
    "dpo": SPEC,
    "ipo": SPEC,
    "orpo": SPEC,
    "simpo": SPEC.model_copy(update={"beta": 2.0, "simpo_gamma": 0.7}),
    "kto": SPEC.model_copy(update={"desirable_weight": 1.5, "undesirable_weight": 0.5}),
}
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
QUICK: dict[str, Any] = {"method": "lora", "rank": 4, "lr": 0.01, "batch_size": 2, "grad_accum": 2, "max_steps": 2}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    of_pairs, labelled = save_jsonl(folder / "pairs.jsonl", PREFERENCES), save_jsonl(folder / "kto.jsonl", LABELLED)
    return {name: labelled if name == "kto" else of_pairs for name in SPECS}


@pytest.fixture(scope="module")
def model(llama_base: Path) -> Any:
    """A model with an adapter that does something."""
    torch.manual_seed(1)
    bare = AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.float32)
    adapted = get_peft_model(bare, LORA)
    for matrix in adapted.parameters():
        if matrix.requires_grad:
            matrix.data = torch.randn_like(matrix) * 0.1
    return adapted.train()


def batch_for(name: str, base: Path, rows: dict[str, Path]) -> Batch:
    tokenizer = load_tokenizer(base)
    examples = tokenise(read_rows(rows[name]), tokenizer, loss_on=None, max_length=256).examples
    assert isinstance(examples, list)
    return batch_of(MADE[name](SPECS[name]), examples, tokenizer.pad_token_id)


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}


def require_equal(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    largest = max(float(each.abs().max()) for each in expected.values())
    assert largest > 1e-4
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= tolerance * largest, name


class Peers:
    """TRL's trainers of a model. They get the tokens of a batch as they are."""

    def __init__(self, model: Any, base: Path, folder: Path) -> None:
        self._model, self._base, self._folder = model, base, folder
        #: The model of the last of them.
        self.trained: Any = None
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token

    def ipo(self, batch: Batch, spec: TrainingSpec) -> Any:
        from trl import DPOConfig, DPOTrainer

        return self._of_pairs(DPOTrainer, DPOConfig, batch, loss_type="ipo", beta=spec.beta)

    def dpo(self, batch: Batch, spec: TrainingSpec) -> Any:
        from trl import DPOConfig, DPOTrainer

        return self._of_pairs(DPOTrainer, DPOConfig, batch, beta=spec.beta)

    def _of_pairs(self, trainer: Any, config: Any, batch: Batch, **options: Any) -> Any:
        made = self._made(trainer, config, PREFERENCES, **options)
        # Chosen answers first, then rejected ones.
        order = [*range(0, len(batch["labels"]), 2), *range(1, len(batch["labels"]), 2)]
        ordered = {name: tensor[order] for name, tensor in batch.items()}
        mask = (ordered["labels"] != IGNORED).long()
        inputs = {"input_ids": ordered["input_ids"], "attention_mask": ordered["attention_mask"]}
        return made.compute_loss(made.model, {**inputs, "completion_mask": mask})

    def orpo(self, batch: Batch, spec: TrainingSpec) -> Any:
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return self._apart(ORPOTrainer, ORPOConfig, batch, beta=spec.beta)

    def simpo(self, batch: Batch, spec: TrainingSpec) -> Any:
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        options = {"beta": spec.beta, "simpo_gamma": spec.simpo_gamma, "loss_type": "simpo", "cpo_alpha": 0.0}
        return self._apart(CPOTrainer, CPOConfig, batch, **options)

    def _apart(self, trainer: Any, config: Any, batch: Batch, **options: Any) -> Any:
        made = self._made(trainer, config, PREFERENCES, **options)
        sides = {"chosen": slice(0, None, 2), "rejected": slice(1, None, 2)}
        inputs = {f"{side}_{name}": tensor[at] for side, at in sides.items() for name, tensor in batch.items()}
        return made.get_batch_loss_metrics(made.model, inputs)[0]

    def kto(self, batch: Batch, spec: TrainingSpec) -> Any:
        from trl import KTOConfig, KTOTrainer

        options = {"desirable_weight": spec.desirable_weight, "undesirable_weight": spec.undesirable_weight}
        made = self._made(KTOTrainer, KTOConfig, LABELLED, beta=spec.beta, **options)
        lengths = batch["attention_mask"].sum(1).tolist()
        tokens = [
            {"input_ids": ids[:length], "labels": labels[:length]}
            for ids, labels, length in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), lengths, strict=True)
        ]
        others = SFT.collate(list(mismatched(tokens.__getitem__, len(tokens), 0, 256)), self._tokenizer.pad_token_id)
        inputs = {"label": batch["desirable"]}
        for prefix, of in (("", batch), ("KL_", others)):
            inputs |= {f"{prefix}{name}": of[name] for name in ("input_ids", "attention_mask")}
            inputs[f"{prefix}completion_mask"] = (of["labels"] != IGNORED).long()
        found = made.compute_loss(made.model, inputs)
        # A baseline that counts.
        assert made._metrics["train"]["kl"][-1] > 0.01
        return found

    def _made(self, trainer: Any, config: Any, rows: list[dict[str, Any]], **options: Any) -> Any:
        from datasets import Dataset

        common = {
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "max_length": None,
            "gradient_checkpointing": False,
        }
        made = trainer(
            # Of a model that has an adapter, that adapter would be the reference.
            model=AutoModelForCausalLM.from_pretrained(self._base, dtype=torch.float32),
            args=config(str(self._folder), per_device_train_batch_size=len(rows), **common, **options),
            train_dataset=Dataset.from_list(rows),
            processing_class=self._tokenizer,
            peft_config=LORA,
        )
        for name, matrix in self._model.named_parameters():
            if matrix.requires_grad:
                made.model.get_parameter(name).data.copy_(matrix.data)
        self.trained = made.model.train()
        return made


@pytest.mark.parametrize("name", [name for name in SPECS if name != "dpo"])
def test_loss_and_gradients_are_those_of_trl(
    name: str, model: Any, llama_base: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    batch = batch_for(name, llama_base, rows)
    ours = step_loss(MADE[name](SPECS[name]), model, batch)
    found = gradients(model, ours)
    peers = Peers(model, llama_base, tmp_path)
    theirs = getattr(peers, name)(batch, SPECS[name])
    print(f"{name}: {float(ours):.7f}, TRL {float(theirs):.7f}")
    assert abs(float(ours) - float(theirs)) < 1e-5
    require_equal(found, gradients(peers.trained, theirs), 1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_a_step_in_parts_has_the_gradient_of_the_whole(
    name: str, model: Any, llama_base: Path, rows: dict[str, Path]
) -> None:
    objective, batch = MADE[name](SPECS[name]), batch_for(name, llama_base, rows)
    count = len(batch["labels"]) // objective.sequences
    whole = gradients(model, step_loss(objective, model, batch))
    for parts in (2, 4):
        found = gradients(model, step_loss(objective, model, batch, rows=count // parts))
        require_equal(found, whole, 1e-6)


def test_every_objective_of_a_spec_is_made_and_described() -> None:
    assert set(get_args(objectives.Objective)) == MADE.keys() == OBJECTIVES.keys()
    for name, make in MADE.items():
        assert make(TrainingSpec()).name == name


def train(name: str, base: Path, rows: dict[str, Path], out: Path, **options: Any) -> Trained:
    spec = {"objective": name, "dropout": 0.0, **QUICK, **options}
    return run_training(base, rows[name], out, eval_data=rows[name], **spec)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "dpo"])
def test_a_training_is_recorded_with_its_objective_and_prefers_the_good_answers(
    name: str, llama_base: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    report = train(name, llama_base, rows, tmp_path / "out", max_steps=8, beta=0.5, lr=0.02)
    record, metrics, traits = report.record, report.metrics, OBJECTIVES[name]
    assert (record.objective, record.beta, record.loss_on) == (name, 0.5, "completion")
    assert traits.options <= report.training.keys()
    assert record.samples == len(PREFERENCES)
    assert metrics["eval_loss"] < metrics["eval_loss_base"]
    at_first = {"ipo": 1.0, "kto": 0.5}
    if name in at_first:
        # Relative to its own probabilities a model has learnt nothing yet.
        assert metrics["eval_loss_base"] == pytest.approx(at_first[name], rel=1e-6)
        assert report.losses[0] == pytest.approx(at_first[name], rel=1e-6)
    if traits.has_pairs:
        kind = "preference" if traits.has_reference else "logp"
        assert metrics[f"eval_{kind}_accuracy"] > 0.8
        assert metrics[f"eval_{kind}_margin"] > 0.1
        assert metrics["eval_chosen_loss"] < metrics["eval_rejected_loss"]
    else:
        assert metrics["eval_auc"] > 0.9
        # Somebody who was not there finds the same, from the saved files.
        found = score(llama_base, rows[name], tmp_path / "out").metrics
        assert found["auc"] == metrics["eval_auc"]
        for label in ("desirable", "undesirable"):
            assert found[f"{label}_log_ratio"] * 0.5 == pytest.approx(metrics[f"eval_{label}_reward"], rel=1e-4)
        assert "auc" not in score(llama_base, rows[name], None).metrics


def test_a_resumed_training_takes_the_same_answers_for_its_baseline(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    def go(out: Path, **options: Any) -> None:
        train("kto", llama_base, rows, out, max_steps=4, lr=0.05, **options)

    whole, resumed = whole_and_resumed(go, tmp_path)
    assert whole == resumed


def test_one_that_continues_a_version_is_compared_with_it(
    llama_base: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    train("simpo", llama_base, rows, tmp_path / "parent", lr=0.05)
    report = train("kto", llama_base, rows, tmp_path / "out", parent=tmp_path / "parent")
    assert (report.record.reference, report.losses[0]) == ("parent", 0.5)
    assert report.metrics["eval_loss_parent"] == 0.5
    free = train("orpo", llama_base, rows, tmp_path / "free", parent=tmp_path / "parent", max_steps=1)
    assert free.record.reference is None


def test_rows_of_one_label_are_refused(llama_base: Path, tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "rows.jsonl", [{**row, "label": True} for row in LABELLED])
    with pytest.raises(PipelineError, match="all rows have the label 'true'") as caught:
        train("kto", llama_base, {"kto": path}, tmp_path / "out")
    assert caught.value.reason == "data"


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> str:
    """An objective that no code of the product knows: half the loss of "sft"."""
    traits = ObjectiveTraits(frozenset({"prompt"}), "{prompt, completion}")

    def scores(look: Look) -> dict[str, float]:
        return {"loss": look.rows * 1.0, "of_its_own": 7.0}

    def loss(model: Any, batch: Batch, step: int, losses: Any) -> Any:
        return loss_sum(model, batch, losses) / (2 * step)

    objective = replace(SFT, name="dummy", loss=loss, scores=scores)
    monkeypatch.setitem(OBJECTIVES, "dummy", traits)
    monkeypatch.setitem(MADE, "dummy", lambda spec: objective)
    return objective.name


def test_an_objective_is_added_without_a_change_elsewhere(dummy: str, llama_base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PREFERENCES]
    data = save_jsonl(tmp_path / "rows.jsonl", rows)
    spec = TrainingSpec(**QUICK, dropout=0.0, packing="off")
    first = [
        run_training(
            llama_base, data, tmp_path / str(name), eval_data=data, spec=spec.model_copy(update={"objective": name})
        )
        for name in (None, dummy)
    ]
    plain, added = first
    assert (plain.record.objective, added.record.objective) == ("sft", dummy)
    assert added.losses[0] == pytest.approx(plain.losses[0] / 2, rel=1e-6)
    assert (added.metrics["eval_loss"], added.metrics["eval_of_its_own"]) == (2.0, 7.0)


def test_answers_of_a_baseline_go_to_other_prompts_and_each_once() -> None:
    rows = [
        {"input_ids": [1, 100 + number, 7, 200 + number], "labels": [IGNORED, IGNORED, 7, 200 + number]}
        for number in range(9)
    ]
    for seed in range(20):
        found = list(mismatched(rows.__getitem__, len(rows), seed, max_length=4))
        pairs = [(row["input_ids"][1] - 100, row["input_ids"][3] - 200) for row in found]
        assert all(prompt != answer for prompt, answer in pairs)
        assert sorted(answer for _, answer in pairs) == list(range(9))
    assert found == list(mismatched(rows.__getitem__, len(rows), 19, max_length=4))
    assert [row["labels"] for row in mismatched(rows.__getitem__, 9, 0, max_length=3)] == [[IGNORED, IGNORED, 7]] * 9


def test_the_area_under_the_curve_counts_equal_rewards_half() -> None:
    good, bad = torch.tensor([0.5, 2.0, 2.0]), torch.tensor([2.0, -1.0, 0.5, 3.0])
    pairs = [(float(one), float(other)) for one in good for other in bad]
    expected = sum((one > other) + 0.5 * (one == other) for one, other in pairs) / len(pairs)
    assert area_under_curve(good, bad) == pytest.approx(expected, abs=1e-12)
