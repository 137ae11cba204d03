from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from support.trainings import inputs_of, run_training

from sdk.schemas.preview import PreviewRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord
from sdk.validation import check_data
from workers.pipelines.data.preview import preview
from workers.pipelines.data.rows import count_equal, read_rows
from workers.pipelines.errors import PipelineError
from workers.pipelines.training.inputs import Inputs


def test_jsonl_rows_keep_their_line_numbers_across_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_text('\n{"text": "a"}\n\n{"text": "b", "id": null}\n')
    assert [(row.where, row.fields) for row in read_rows(path)] == [
        ("line 2", {"text": "a"}),
        ("line 4", {"text": "b"}),
    ]


def test_csv_rows_are_named_by_the_line_they_start_on(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_text('prompt,completion\n"a\nb",c\nd,e\n')
    rows = read_rows(path)
    assert [row.where for row in rows] == ["line 2", "line 4"]
    assert rows[0].fields == {"prompt": "a\nb", "completion": "c"}


def test_parquet_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    messages = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]]
    pyarrow.parquet.write_table(pyarrow.table({"messages": messages}), path)
    (row,) = read_rows(path)
    assert (row.where, row.shape, row.fields["messages"][1]["content"]) == ("row 1", "messages", "yes")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "a", "completion": " "}, "empty `completion`"),
        ({"prompt": "a"}, "no `completion`"),
        ({"prompt": 3, "completion": "b"}, "`prompt` that is not text but a whole number"),
        ({"prompt": "\ud800", "completion": "b"}, "half a surrogate pair"),
        ({"messages": []}, "or is empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "without a role"),
        ({"messages": [{"role": "user", "content": None}]}, "without a text"),
        ({"text": "a", "label": 1}, "text-label row among prompt rows"),
        ({"question": "a"}, "none of the shapes"),
        (["a"], "not an object but a list"),
        ({"text": "other shape"}, "text row among prompt rows"),
    ],
)
def test_a_bad_row_is_named_by_line_and_fault(write_jsonl: Callable[..., Path], row: object, fault: str) -> None:
    path = write_jsonl([{"prompt": "p", "completion": "c"}, row])
    with pytest.raises(PipelineError, match=f"1 of 2 rows can't be used: line 2 .*{fault}") as caught:
        read_rows(path)
    assert caught.value.reason == "data"


def test_many_bad_rows_are_counted(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(PipelineError, match=r"9 of 9 rows .* and 4 more; correct or remove them"):
        read_rows(write_jsonl([{"text": ""}] * 9))


def test_broken_json_and_no_rows_are_data_errors(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(PipelineError, match="line 2 is not a JSON object"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(PipelineError, match="has no rows"):
        read_rows(path)
    with pytest.raises(PipelineError, match="can't be read"):
        read_rows(tmp_path / "missing")


def test_labels_of_parquet_are_numbers_or_texts(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    for labels, names in (([1, 0], ["1", "0"]), (["да", "нет"], ["да", "нет"])):
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": labels}), path)
        assert [row.fields["label"] for row in read_rows(path)] == names
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1, None]}), path)
    with pytest.raises(PipelineError, match="row 2 has a `label` that is null"):
        read_rows(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": [0.5]}), path)
    with pytest.raises(
        PipelineError, match="row 1 has a `label` that is neither a text nor a whole number but a decimal number"
    ):
        read_rows(path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": ["a", "b"], "completion": ["c", ""]}, "1 of 2 rows can't be used: row 2 has an empty `completion`"),
        ({"prompt": ["a"], "completion": [7]}, "row 1 has a `completion` that is not text but a whole number"),
        ({"question": ["a"], "answer": ["b"]}, "as with --columns prompt=question,completion=answer"),
        ({"prompt": ["a"], "completion": ["b"], "id": [1]}, "row 1 has keys .* that would be lost: `id`"),
        ({"text": []}, "the dataset has no rows"),
        ({"text": ["a"], "label": ["x"]}, "all rows have the label 'x'"),
        (b"PAR1 and nothing else", "the Parquet file can't be read"),
    ],
)
def test_bad_parquet_is_refused_before_the_base_is_loaded(
    columns: dict[str, Any] | bytes, said: str, llama_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.pipelines.training import train as training

    path = tmp_path / "rows"
    if isinstance(columns, bytes):
        path.write_bytes(columns)
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    monkeypatch.setattr(training, "load_base", lambda *_given, **_named: pytest.fail("the base is loaded"))
    with pytest.raises(PipelineError, match=said) as caught:
        run_training(llama_base, path, tmp_path / "out", method="lora", max_steps=1)
    assert caught.value.reason == "data"


PAIRS = [("What is it?", "A cat."), ("And this?", "A dog.")]
COLUMNS = "prompt=q,completion=a"
CHATS = [
    {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]} for q, a in PAIRS
]


def inputs(base: Path, data: Path, columns: str | None = None, eval_data: Path | None = None) -> Inputs:
    spec = TrainingSpec(method="lora", rank=2, max_length=64, columns=columns)
    return inputs_of(base, data, spec=spec, eval_data=eval_data)


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
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
        data = write_jsonl([{"prompt": q, "completion": a} for q, a in PAIRS])
        spec = TrainingSpec(method="lora", rank=2, max_length=64, max_steps=1, lr=1e-2)
        report = run_training(llama_base, data, tmp_path / "out", eval_data=data, spec=spec)
        assert report.training["held_out_rows_in_training"] == 2
        said = "2 of the held-out rows are training rows too, so their loss says too little"
        assert report.record.held_out_warning == said
        assert TrainingRecord().held_out_warning is None
