"""Rows drawn by weight: which labels they teach, and which held-out rows they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.mixtures import files, mixture
from support.trainings import inputs_of

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.label_rows import label_rows
from workers.pipelines.data.mixing import weighted
from workers.pipelines.data.rows import check_files
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import OrderedSource
from workers.pipelines.training.inputs import Inputs

SPEC = TrainingSpec(method="lora", rank=2, targets="qv", objective="classify")


def inputs(base: Path, data: list[OrderedSource], eval_data: Path | None = None, **options: Any) -> Inputs:
    return inputs_of(base, data, spec=SPEC.model_copy(update=options), eval_data=eval_data)


def labelled(count: int, *labels: str, word: str) -> list[dict[str, str]]:
    return [{"text": f"{word} {n}", "label": labels[n % len(labels)]} for n in range(count)]


def test_a_label_without_a_drawn_row_is_refused_with_the_weight_to_raise(llama_base: Path, tmp_path: Path) -> None:
    given = files(
        tmp_path,
        [{"text": "one", "label": "rare"}, *labelled(9, "neg", word="a")],
        labelled(10, "pos", "neg", word="b"),
    )
    # One of ten rows of the file is drawn, and it isn't the only one of its label.
    with pytest.raises(PipelineError) as caught:
        inputs(llama_base, mixture(given, (1.0, 19.0)))
    assert caught.value.reason == "data"
    assert caught.value.message == ("The weight 1 of a leaves no row of the label 'rare' in an epoch; raise it.")
    found = inputs(llama_base, mixture(given, (1.0, 1.0)))
    assert found.classes.names == ("neg", "pos", "rare")


def test_a_label_alone_among_drawn_rows_is_no_label_alone_in_the_files(llama_base: Path, tmp_path: Path) -> None:
    rare = [{"text": "one", "label": "pos"}, *labelled(9, "neg", word="a")]
    given = files(tmp_path, rare, labelled(10, "neg", word="b"))
    with pytest.raises(PipelineError, match="The weight 1 of a leaves no row of the label 'pos'"):
        inputs(llama_base, mixture(given, (1.0, 19.0)))


@pytest.mark.parametrize("seed", range(3))
def test_held_out_rows_of_a_label_that_no_drawn_row_has_are_no_crash(
    llama_base: Path, tmp_path: Path, seed: int
) -> None:
    given = files(tmp_path, labelled(20, *[f"k{n}" for n in range(10)], word="a"), labelled(20, "x", "y", word="b"))
    with pytest.raises(PipelineError, match=r"weight 1 of a leaves no row of the label 'k\d' in an epoch; raise it"):
        inputs(llama_base, mixture(given, (1.0, 30.0)), holdout=0.2, seed=seed)


def test_a_label_that_no_training_row_has_is_named(llama_base: Path, tmp_path: Path) -> None:
    from workers.pipelines.data.tokenizer import load_tokenizer

    (file,) = files(tmp_path, labelled(4, "pos", "neg", word="a"))
    tokenizer = load_tokenizer(llama_base, ends=False)
    with pytest.raises(PipelineError) as caught:
        label_rows(check_files((file,)), tokenizer, ["pos"], max_length=32)
    assert caught.value.message == (
        "line 2 has the label 'neg', which no training row has; correct it, or train on rows that have it."
    )


def test_held_out_rows_that_are_never_drawn_are_not_counted_as_seen(llama_base: Path, tmp_path: Path) -> None:
    given = files(tmp_path, [f"number {n}" for n in range(10)], [f"letter {n}" for n in range(10)])
    weights = (1.0, 9.0)
    drawn = {row.fields["completion"] for row in weighted(check_files(given), weights, SPEC.seed)}
    seen = sum(f"number {n}" in drawn for n in range(10))
    assert seen == 2
    found = inputs(llama_base, mixture(given, weights), given[0].path, objective=None)
    assert found.held_out_seen == seen
