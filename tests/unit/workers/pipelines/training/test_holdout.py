"""A training that holds some of its rows out: it never sees them, scores them, and records which they were."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.trainings import inputs_of, order_of, run_training

from sdk.formats.rows import Row
from sdk.rows.splitting import rows_digest
from sdk.rows.texts import normalised_row
from sdk.schemas.preview import PreviewRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data.preview import preview
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import Tokenised
from workers.pipelines.errors import PipelineError
from workers.pipelines.training import inputs as module
from workers.pipelines.training.inputs import Inputs, audit

SPEC = TrainingSpec(method="lora", rank=2, targets="qv", max_steps=2, batch_size=2, grad_accum=1, holdout=0.25)


def inputs(base: Path, data: Path, **options: Any) -> Inputs:
    """The data phase of a training."""
    return inputs_of(base, data, spec=TrainingSpec(**{**SPEC.model_dump(), **options}))


def said(given: Inputs, side: Tokenised | None) -> list[str]:
    """What the examples of a side say, read off their tokens."""
    return [given.tokenizer.decode(example.input_ids, skip_special_tokens=True) for example in side.examples]


def test_what_is_held_out_is_scored_recorded_and_never_trained_on(
    llama_base: Path, pairs: Path, tmp_path: Path
) -> None:
    given = inputs(llama_base, pairs)
    assert (len(given.rows.examples), len(given.held_out.examples)) == (9, 3)
    trained, held = set(said(given, given.rows)), set(said(given, given.held_out))
    assert trained.isdisjoint(held)
    report = _train(llama_base, pairs, tmp_path / "one")
    rows = read_rows(pairs)
    sides = [
        [row for row in rows if row.fields["prompt"] + row.fields["completion"] in those] for those in (trained, held)
    ]
    assert report.training["holdout"] == 0.25
    assert (report.training["training_rows"], report.training["held_out_rows"]) == (9, 3)
    assert rows_digest(sides[0]) == report.training["training_digest"]
    assert rows_digest(sides[1]) == report.training["held_out_digest"]
    assert "held_out_rows_in_training" not in report.training
    assert report.rows == 9
    # The scores are those of a training to which the two sides are given as files.
    files = []
    for name, side in zip(("training", "held"), sides, strict=True):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row.fields) + "\n" for row in side))
    apart = _train(llama_base, files[0], tmp_path / "two", eval_data=files[1], holdout=None)
    assert {name: apart.metrics[name] for name in ("loss", "eval_loss", "eval_loss_base")} == {
        name: report.metrics[name] for name in ("loss", "eval_loss", "eval_loss_base")
    }


def _train(base: Path, data: Path, out: Path, **options: Any) -> TrainingReport:
    return run_training(base, data, out, **{**SPEC.model_dump(), **options})


def test_which_rows_are_held_out_depends_on_neither_their_order_nor_the_trainings_seed(
    llama_base: Path, write_jsonl: Callable[..., Path]
) -> None:
    rows = [{"text": f"row number {number}"} for number in range(20)]
    shuffled = random.Random(1).sample(rows, len(rows))
    found = [
        inputs(llama_base, write_jsonl(rows)),
        inputs(llama_base, write_jsonl(shuffled, "shuffled.jsonl"), seed=9),
        inputs(llama_base, write_jsonl(rows), holdout_seed=1),
    ]
    digests = [one.split.held_out_digest for one in found]
    assert digests[0] == digests[1] != digests[2]


def test_groups_stay_whole_and_each_label_is_learnt(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = [{"text": f"{group} {n}", "label": "xyz"[n], "by": group} for group in "abcd" for n in range(3)]
    # Of one label all rows are in one group, which therefore stays.
    rows[0]["label"] = "only here"
    given = inputs(llama_base, write_jsonl(rows), holdout_by="by", targets="attention")
    assert given.held_out is not None
    assert given.classes.names == ("only here", "x", "y", "z")
    assert sorted(example.labels for example in given.held_out.examples) == [[1], [2], [3]]
    with pytest.raises(PipelineError, match="each row is the only one with its label"):
        inputs(llama_base, write_jsonl([{"text": f"{n}", "label": f"{n}"} for n in range(4)]), targets="attention")


def test_a_split_that_can_not_be_is_an_error_before_the_base_is_loaded(
    llama_base: Path, write_jsonl: Callable[..., Path], pairs: Path
) -> None:
    with pytest.raises(PipelineError, match="can't be split: all rows are the same text"):
        inputs(llama_base, write_jsonl([{"text": "same"}, {"text": "Same"}]))
    with pytest.raises(PipelineError, match="has nothing in the column `by`"):
        inputs(llama_base, pairs, holdout_by="by")
    with pytest.raises(PipelineError, match="leave out holdout, or eval_data"):
        inputs_of(llama_base, pairs, spec=SPEC, eval_data=pairs)


def test_no_held_out_row_is_a_row_of_the_training_in_another_spelling(
    llama_base: Path, write_jsonl: Callable[..., Path]
) -> None:
    texts = [f"{word}{end}" for word in ("Alpha", "beta", "Gamma", "delta", "Straße") for end in ("", "  ", "\n", "!")]
    path = write_jsonl([{"text": text} for text in (*texts, *(text.upper() for text in texts))])
    given = inputs(llama_base, path, holdout=0.3)
    assert given.held_out is not None
    sides = [
        {normalised_row(Row("", "text", {"text": text})) for text in said(given, side)}
        for side in (given.rows, given.held_out)
    ]
    assert all(sides)
    assert sides[0].isdisjoint(sides[1])


def test_a_training_says_and_records_what_is_wrong_with_its_rows(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": f"question {word}: ", "completion": word, "by": word} for word in ("one", "two", "three")]
    path = write_jsonl([*rows, rows[0], {**rows[1], "completion": "\u200btwo"}])
    held = write_jsonl([{**rows[2], "prompt": "Question Three:  "}], "held.jsonl")
    said: list[str] = []
    options = {"holdout": None, "columns": "prompt=prompt,completion=completion"}
    asked = {"eval_data": held, "on_progress": lambda progress: said.append(progress.message or "")}
    report = _train(llama_base, path, tmp_path / "out", **options, **asked)
    found = {name: value for name, value in report.training.items() if name.startswith("audit_")}
    assert found == {
        "audit_exact_duplicate": 1,
        "audit_conflict": 1,
        "audit_held_out_normalised": 1,
        "audit_control_characters": 1,
    }
    (told,) = [line for line in said if line.startswith("audit of the rows")]
    assert "exact_duplicate 1, conflict 1, held_out_normalised 1, control_characters 1; see which" in told
    # Groups are no fault of the rows.
    by_group = _train(llama_base, path, tmp_path / "grouped", holdout_by="by")
    assert by_group.training["audit_exact_duplicate"] == 1
    assert "audit_unusable" not in by_group.training


def test_rows_that_nearly_straddle_the_split_are_counted(write_jsonl: Callable[..., Path]) -> None:
    texts = ["What the sea looks like on a grey winter morning in one sentence number " + word for word in "abcdefgh"]
    path = write_jsonl([{"prompt": text, "completion": f"{at}", "by": at} for at, text in enumerate(texts)])
    said: list[str] = []
    options = {"holdout_by": "by", "holdout_seed": 3, "holdout": 0.25}
    spec = TrainingSpec(**{**SPEC.model_dump(), **options})
    found = audit(order_of(path.parent, path, spec=spec), lambda progress: said.append(progress.message or ""))
    assert found == {"near_duplicate": 7, "held_out_near": 2}
    assert said[-1].endswith("adapterctl data check --holdout 0.25 --holdout-by by --holdout-seed 3")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MemoryError("Unable to allocate 60 GiB"), "the memory is too small"),
    ],
)
def test_what_is_full_stops_the_audit_and_not_the_training(
    error: Exception, why: str, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_given: Any) -> None:
        raise error

    monkeypatch.setattr(module, "audit_rows", full)
    said: list[str | None] = []
    assert audit(order_of(pairs.parent, pairs, spec=SPEC), lambda progress: said.append(progress.message)) == {}
    assert said == ["auditing rows", f"the rows were not audited: {why}"]


def test_a_preview_shows_and_counts_the_rows_that_are_trained_on(llama_base: Path, pairs: Path) -> None:
    asked = PreviewRequest(
        base=str(llama_base), data=str(pairs), loss_on=None, max_length=1024, day="2026-03-04", rows=20, holdout=0.25
    )
    found = preview(asked)
    given = inputs(llama_base, pairs)
    assert [text.text for text in found.rows] == [
        given.tokenizer.decode(example.input_ids) for example in given.rows.examples
    ]
    assert (found.file_rows, found.totals.samples) == (9, 9)
    assert [text.row for text in found.rows] == list(range(1, 10))
