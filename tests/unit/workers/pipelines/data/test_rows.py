from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.rows import read_rows
from workers.pipelines.errors import PipelineError


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
    import pyarrow
    import pyarrow.parquet

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
    import pyarrow
    import pyarrow.parquet

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
    import pyarrow
    import pyarrow.parquet

    from workers.pipelines.training import train as training

    path = tmp_path / "rows"
    if isinstance(columns, bytes):
        path.write_bytes(columns)
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    monkeypatch.setattr(training, "load_base", lambda *_given, **_named: pytest.fail("the base is loaded"))
    with pytest.raises(PipelineError, match=said) as caught:
        training.train(
            base=llama_base, base_name="tiny", base_revision=None, data=path, eval_data=None, out=tmp_path / "out",
            spec=TrainingSpec(method="lora", max_steps=1), on_progress=lambda _progress: None,
        )  # fmt: skip
    assert caught.value.reason == "data"
