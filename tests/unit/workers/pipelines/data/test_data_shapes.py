"""However rows are written, a training is given the same tokens; by which columns they were read is in its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdk.schemas.preview import PreviewRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import held_out_warning
from sdk.validation import check_data
from workers.pipelines.data.preview import preview
from workers.pipelines.data.rows import count_equal, read_rows
from workers.pipelines.errors import PipelineError
from workers.pipelines.training.inputs import Inputs, read_inputs

PAIRS = [("What is it?", "A cat."), ("And this?", "A dog.")]
COLUMNS = "prompt=q,completion=a"
CHATS = [
    {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]} for q, a in PAIRS
]


def inputs(base: Path, data: Path, columns: str | None = None, eval_data: Path | None = None) -> Inputs:
    spec = TrainingSpec(method="lora", rank=2, max_length=64, columns=columns)
    return read_inputs(
        base=base,
        base_name="tiny",
        base_revision=None,
        data=data,
        eval_data=eval_data,
        spec=spec,
        checkpoints=None,
    )


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_other_shapes_are_the_tokens_of_their_conversations(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    alpaca = [{"instruction": q, "input": "", "output": a} for q, a in PAIRS]
    turns = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in PAIRS]
    plain = inputs(llama_base, write_jsonl(CHATS)).configuration
    assert inputs(llama_base, write_jsonl(alpaca)).configuration["tokens"] == plain["tokens"]
    messages = [{"messages": row["prompt"] + row["completion"]} for row in CHATS]
    of_messages = inputs(llama_base, write_jsonl(messages)).configuration
    assert inputs(llama_base, write_jsonl(turns)).configuration["tokens"] == of_messages["tokens"]


def test_other_files_and_columns_are_the_same_tokens(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    plain = inputs(llama_base, write_jsonl([{"prompt": q, "completion": a} for q, a in PAIRS]))
    assert plain.rows.rendering.columns is None
    assert "columns" not in plain.configuration
    rows = [{"q": q, "a": a, "id": 7} for q, a in PAIRS]
    csv = tmp_path / "rows.csv"
    csv.write_text("q,a,id\n" + "".join(f"{q},{a},7\n" for q, a in PAIRS))
    as_list = tmp_path / "rows.json"
    as_list.write_text(json.dumps(rows, indent=1))
    # A worker's cache has files by their digests.
    blob = tmp_path / "blob"
    blob.write_bytes(as_list.read_bytes())
    for path in (write_jsonl(rows, "mapped.jsonl"), csv, as_list, blob, parquet(tmp_path / "rows.parquet", rows)):
        found = inputs(llama_base, path, COLUMNS)
        assert found.configuration["tokens"] == plain.configuration["tokens"]
        assert found.configuration["columns"] == found.rows.rendering.columns == COLUMNS
        assert json.loads(found.rows.rendering.canonical())["columns"] == COLUMNS
        with pytest.raises(PipelineError, match=r"the keys `q`, `a`, `id`; say which they are"):
            inputs(llama_base, path)


def test_client_and_job_read_the_same_rows(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"q": q, "a": a} for q, a in PAIRS]
    path = write_jsonl(rows)
    assert check_data(path, columns=COLUMNS).rows == len(read_rows(path, columns=COLUMNS)) == 2
    with pytest.raises(PipelineError, match="row 1 has no column `x` for `text`"):
        read_rows(parquet(tmp_path / "rows.parquet", rows), columns="text=x")


def test_a_preview_shows_rows_by_their_columns(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"q": q, "a": a, "id": 7} for q, a in PAIRS])
    asked = PreviewRequest(
        base=str(llama_base), data=str(path), loss_on=None, columns=COLUMNS, max_length=64, day="2026-03-04"
    )
    shown = preview(asked)
    assert [text.supervised_text.startswith(answer) for text, (_, answer) in zip(shown.rows, PAIRS, strict=True)] == [
        True,
        True,
    ]
    assert shown.rendering.columns == COLUMNS


class TestHeldOutRowsThatWereLearnt:
    def test_they_are_counted(self, llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
        rows = [{"prompt": q, "completion": a} for q, a in PAIRS]
        data = write_jsonl(rows)
        # In another format, with its keys in another order, and once more.
        kept = tmp_path / "kept.csv"
        kept.write_text(f"completion,prompt\nnew,new\n{PAIRS[0][1]},{PAIRS[0][0]}\n{PAIRS[0][1]},{PAIRS[0][0]}\n")
        assert inputs(llama_base, data, eval_data=kept).held_out_seen == 2
        assert inputs(llama_base, data, eval_data=write_jsonl([{"text": "x"}], "x.jsonl")).held_out_seen == 0
        assert count_equal(read_rows(data), read_rows(data)) == 2

    def test_the_record_says_so(self, llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
        from workers.pipelines.training.train import train

        data = write_jsonl([{"prompt": q, "completion": a} for q, a in PAIRS])
        report = train(
            base=llama_base,
            base_name="tiny",
            base_revision=None,
            data=data,
            eval_data=data,
            spec=TrainingSpec(method="lora", rank=2, max_length=64, max_steps=1, lr=1e-2),
            out=tmp_path / "out",
            on_progress=lambda _: None,
        )
        assert report.training["held_out_rows_in_training"] == 2
        said = "2 of the held-out rows are training rows too, so their loss says too little"
        assert held_out_warning(report.training) == said
        assert held_out_warning({}) is None
