"""Preferences of which a model finds no number: such a row loses its own scores, and the others keep theirs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support import tiny
from support.evaluated import evaluated
from support.trainings import run_training, save_jsonl

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.wire import digest_of
from workers.pipelines.data.preferences import Pair, preference_scores
from workers.pipelines.data.tokenizer import load_tokenizer

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

#: A sign whose embedding is not a number.
BAD = "~"
GOOD = [{"prompt": f"colour {number} is ", "chosen": "red", "rejected": "RED" + "!" * number} for number in (1, 2, 3)]
#: The first row has no loss of what is rejected, the last none of what is chosen.
ROWS = [{"prompt": "a ", "chosen": "red", "rejected": f"R{BAD}D and more"}, *GOOD]
ROWS += [{"prompt": "b ", "chosen": f"r{BAD}d", "rejected": "RED"}]
OF_PREFERENCES = ("preference_accuracy", "preference_margin", "rejected_loss")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that predicts by other weights than it reads with, and can't read one token."""
    from transformers import AutoModelForCausalLM

    folder = tiny.save_llama(tmp_path_factory.mktemp("base"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    (bad,) = load_tokenizer(folder)(BAD)["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = float("nan")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = save_jsonl(folder / "rows.jsonl", GOOD)
    run_training(base, data, folder / "out", method="lora", rank=4, lr=0.01, max_steps=2)
    return folder / "out"


def scores(base: Path, rows: list[dict[str, str]], folder: Path, adapter: Path | None) -> EvaluationReport:
    folder.mkdir()
    data = save_jsonl(folder / "rows.jsonl", rows)
    return evaluated(base, data, folder, EvaluationSpec(generate_rows=0, batch_size=2), adapter)[0]


def test_an_adapters_preferences_are_over_the_rows_that_have_them(base: Path, adapter: Path, tmp_path: Path) -> None:
    found, good = (scores(base, rows, tmp_path / str(len(rows)), adapter) for rows in (ROWS, GOOD))
    for name in OF_PREFERENCES[:2]:
        assert found.metrics[name] == pytest.approx(good.metrics[name], rel=1e-5)
        assert found.metrics[f"{name}_rows"] == 3
    # What is rejected in the last row has a loss.
    rejected = scores(base, ROWS[1:], tmp_path / "rejected", adapter)
    assert found.metrics["rejected_loss"] == pytest.approx(rejected.metrics["rejected_loss"], rel=1e-6)
    assert (found.metrics["rejected_loss_rows"], found.metrics["rows"], found.metrics["failed_rows"]) == (4, 4, 1)
    assert found.conditions.failed == {
        "loss": digest_of([4]),
        "rejected_loss": digest_of([0]),
        **{name: digest_of([0, 4]) for name in OF_PREFERENCES[:2]},
    }
    assert not any(name.startswith(OF_PREFERENCES) and name.endswith("_rows") for name in good.metrics)


def test_a_bare_base_has_the_loss_of_what_it_can_read(base: Path, tmp_path: Path) -> None:
    found = scores(base, ROWS, tmp_path / "found", None)
    rejected = scores(base, ROWS[1:], tmp_path / "rejected", None)
    assert found.metrics["rejected_loss"] == pytest.approx(rejected.metrics["rejected_loss"], rel=1e-6)
    assert found.metrics["rejected_loss_rows"] == 4
    assert "rejected_loss_rows" not in rejected.metrics


def test_scores_that_no_row_has_are_left_out(base: Path, adapter: Path, tmp_path: Path) -> None:
    found = scores(base, ROWS[:1], tmp_path / "none", adapter)
    assert not found.metrics.keys() & set(OF_PREFERENCES)
    assert found.metrics["rows"] == 1
    assert set(found.conditions.failed) == set(OF_PREFERENCES)


def test_rows_that_ran_away_both_ways_have_no_margin_rather_than_no_report() -> None:
    up, down = (Pair(-1.0, -1.0, ratio, 0.0, 2, 2) for ratio in (math.inf, -math.inf))
    found = preference_scores([up, down])
    assert math.isnan(found["preference_margin"])
    assert (found["preference_accuracy"], found["rejected_loss"]) == (0.5, 0.5)
