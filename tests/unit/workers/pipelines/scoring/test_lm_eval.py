"""Summed log-likelihoods, as lm-evaluation-harness 0.4.13 found them over the same base and adapter."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.evaluated import evaluated

from sdk.schemas.evaluation import EvaluationSpec, RowScore

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ASSETS = Path(__file__).parents[4] / "assets"
#: Nats.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def making() -> ModuleType:
    """The script that made the record."""
    sys.path.insert(0, str(ASSETS))
    try:
        import make_lm_eval
    finally:
        sys.path.remove(str(ASSETS))
    return make_lm_eval


@pytest.fixture(scope="module")
def folders(making: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return making.make(tmp_path_factory.mktemp("lm-eval"))


def scored(folders: tuple[Path, Path], data: Path, out: Path) -> list[RowScore]:
    base, adapter = folders
    return evaluated(base, data, out, EvaluationSpec(batch_size=2, generate_rows=0), adapter)[1]


def test_the_loss_of_each_row_is_its_log_likelihood(
    making: ModuleType, folders: tuple[Path, Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    record = json.loads(making.RECORD.read_text())
    rows = scored(folders, write_jsonl(making.PAIRS), tmp_path)
    assert record["lm_eval"] == "0.4.13"
    assert [-(row.loss_sum or math.nan) for row in rows] == pytest.approx(record["completions"], abs=TOLERANCE, rel=0)


def test_choices_have_their_log_likelihoods_and_the_same_is_chosen(
    making: ModuleType, folders: tuple[Path, Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    record = json.loads(making.RECORD.read_text())["choices"]
    # Each choice is the right one once, whose log-likelihood is the row's.
    for place in range(2):
        asked = [{**row, "answer": place} for row in making.QUESTIONS]
        for row, one, expected in zip(
            scored(folders, write_jsonl(asked), tmp_path), making.QUESTIONS, record, strict=True
        ):
            assert -(row.loss_sum or math.nan) == pytest.approx(expected[place], abs=TOLERANCE, rel=0)
            assert row.prediction == one["choices"][expected.index(max(expected))]
