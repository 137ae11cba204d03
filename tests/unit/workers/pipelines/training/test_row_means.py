"""The losses of single rows, as the steps of a training measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny
from support.trainings import inputs_of, run_training, save_jsonl
from transformers import AutoModelForCausalLM

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import example_losses
from workers.pipelines.training import row_means
from workers.pipelines.training.row_means import RowMeans

QUICK: dict[str, Any] = {
    "method": "lora",
    "rank": 4,
    "lr": 1e-9,
    "batch_size": 5,
    "grad_accum": 1,
    "epochs": 2.0,
    "warmup_ratio": 0.0,
    "dropout": 0.0,
    "seed": 3,
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[RowMeans]:
    """What trainings count of their rows."""
    made: list[RowMeans] = []

    class Kept(RowMeans):
        def __init__(self, rows: int) -> None:
            super().__init__(rows)
            made.append(self)

    monkeypatch.setattr("workers.pipelines.training.train.RowMeans", Kept)
    return made


@pytest.mark.parametrize("options", [{"packing": "off"}, {"packing": "on"}], ids=["apart", "packed"])
def test_each_row_has_the_loss_that_it_has_alone(
    llama_base: Path, tmp_path: Path, counted: list[RowMeans], options: dict[str, Any]
) -> None:
    data = tiny.write_rows(tmp_path / "pairs.jsonl")
    run_training(llama_base, data, tmp_path / "out", **QUICK, **options)
    (found,) = counted
    given = inputs_of(llama_base, data, spec=TrainingSpec.model_validate(QUICK))
    model = AutoModelForCausalLM.from_pretrained(llama_base).eval()
    alone = np.full(given.training_rows, np.nan)
    numbers = {tuple(example.input_ids): at for at, example in enumerate(given.rows.examples)}
    for part in example_losses(model, given.rows.examples, given.tokenizer.pad_token_id, 1, "cpu"):
        for example, loss in part:
            alone[numbers[tuple(example.input_ids)]] = loss / example.supervised_tokens
    # At such a rate nothing is learnt.
    assert len(numbers) == given.training_rows
    np.testing.assert_allclose(found.means(), alone, rtol=1e-4)


def test_rows_that_were_in_no_step_have_no_mean() -> None:
    found = RowMeans(3)
    found.add([0, 2], [1.0, 2.0])
    found.add([0], [2.0])
    assert found.means().tolist() == pytest.approx([1.5, float("nan"), 2.0], nan_ok=True)


def test_a_run_of_broken_rows_is_named_by_its_place_in_the_file(llama_base: Path, tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(1)
    rows = [{"prompt": f"{at % 7} is ", "completion": "one two one two"} for at in range(80)]
    for row in rows[30:35]:
        row["completion"] = "".join(map(chr, torch.randint(0xA1, 0x250, (15,), generator=noise).tolist()))
    data = save_jsonl(tmp_path / "rows.jsonl", rows)
    report = run_training(llama_base, data, tmp_path / "out", **{**QUICK, "lr": 5e-3, "batch_size": 8})
    (found,) = (one.message for one in report.advice if one.rule == "broken_rows")
    assert found.startswith("rows 31 to 35 of the dataset have a loss of ")
    assert found.endswith("so something may have broken there; mend them or leave them out, or try --max-grad-norm 0.3")


def test_other_objectives_count_no_rows() -> None:
    assert row_means.StepRowLosses({}).found(torch.tensor(2.0)) == (2.0, [])
