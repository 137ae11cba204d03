"""What a base's tokenizer makes of rows: counted as a training would see them, of all rows or of some spread over the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import templates, tiny

import sdk
from sdk.schemas.data_audit import TokenCountRequest, TokenCounts
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.token_counts import count_tokens
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError


def counted(base: Path, data: Path, *, rows: int, sample: int = 100, **options: Any) -> TokenCounts:
    """Count tokens in this process."""
    asked = {"max_length": 1024, **options}
    return count_tokens(
        TokenCountRequest(
            base=str(base), data=str(data), day="2026-01-02", of_rows=rows, sample=sample, examples=2, **asked
        )
    )


@pytest.mark.parametrize("loss_on", [None, "all"])
def test_tokens_are_those_of_a_training(llama_base: Path, pairs: Path, loss_on: Any) -> None:
    found = counted(llama_base, pairs, rows=12, loss_on=loss_on, max_length=24)
    trained = tokenise(read_rows(pairs), load_tokenizer(llama_base), loss_on=loss_on, max_length=24)
    assert found.supervised_tokens == trained.supervised_tokens
    assert (found.rows, found.rows_cut, found.rows_dropped) == (12, trained.cut, trained.dropped)
    assert found.tokens - found.tokens_lost == trained.tokens + (found.rows_dropped * 24)
    assert found.rows_dropped > 0 or loss_on == "all"
    assert sum(bucket.rows for bucket in found.lengths) == 12
    assert found.too_long[0].rows[0].startswith("line ")


def test_rows_that_lack_what_the_loss_is_on_are_named(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny.save_llama(tmp_path / "qwen3", tokenizer=templates.new_tokenizer_of("qwen3"))
    asked, said = {"role": "user", "content": "Is it warm?"}, {"role": "assistant", "content": "Yes."}
    rows = [{"messages": [asked, each]} for each in ({**said, "reasoning_content": "They ask."}, said)]
    found = {on: counted(base, write_jsonl(rows), rows=2, loss_on=on) for on in ("assistant", "answer", "reasoning")}
    assert [found[on].rows_refused for on in ("assistant", "answer", "reasoning")] == [0, 0, 1]
    (refusal,) = found["reasoning"].refusals
    assert refusal.rows == ["line 2"]
    assert "renders without reasoning" in refusal.detail
    # Content and end, twice.
    assert found["answer"].supervised_tokens == 2 * (len(load_tokenizer(base)("Yes.")["input_ids"]) + 1)
    assert found["answer"].supervised_tokens < found["assistant"].supervised_tokens


def test_added_tokens_are_counted_as_one_each(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = write_jsonl([{"text": "<red>" * 9}, {"text": "<red> and <blue>"}])
    plain, added = (counted(llama_base, rows, rows=2, **given) for given in ({}, {"add_tokens": "<red>\n<blue>\n"}))
    tokenizer = load_tokenizer(llama_base)
    fewer = sum(
        len(tokenizer(token, add_special_tokens=False)["input_ids"]) - 1 for token in ["<red>"] * 10 + ["<blue>"]
    )
    assert plain.tokens - added.tokens == fewer > 0
    with pytest.raises(PipelineError, match="is a token of the base already"):
        counted(llama_base, rows, rows=2, add_tokens="r\n")


def test_a_sample_is_spread_over_the_file(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    ends = load_tokenizer(llama_base)("x")["input_ids"]
    rows = [{"text": "x"}] * 50 + [7] + [{"text": "x x x x x x x"}] * 50
    found = counted(llama_base, write_jsonl(rows), rows=100, sample=4)
    assert (found.rows, found.of_rows) == (4, 100)
    assert sorted(bucket.rows for bucket in found.lengths) == [2, 2]
    assert min(bucket.up_to for bucket in found.lengths) >= len(ends)


# At 12 tokens nothing is left of some answers, at 20 some are equal.
@pytest.mark.parametrize("max_length", [12, 16, 20, 24, 1024])
def test_pairs_that_are_dropped_are_those_of_a_training(
    max_length: int, llama_base: Path, write_jsonl: Callable[..., Path]
) -> None:
    rows = [
        {"prompt": "q", "chosen": " good", "rejected": " bad"},
        {
            "prompt": "one two three",
            "chosen": " the same at first, then good",
            "rejected": " the same at first, then bad",
        },
        {"prompt": "a longer prompt", "chosen": " no", "rejected": " yes, and much more of it than fits in here"},
        {"prompt": "a prompt that is longer than all that fits", "chosen": " a", "rejected": " b"},
    ]
    path = write_jsonl(rows)
    found = counted(llama_base, path, rows=4, max_length=max_length)
    trained = tokenise(read_rows(path), load_tokenizer(llama_base), loss_on=None, max_length=max_length)
    assert (found.rows_dropped, found.rows_cut) == (trained.dropped, trained.cut)
    assert found.supervised_tokens == trained.supervised_tokens
    assert max_length == 1024 or found.rows_dropped > 1


def test_no_text_is_learnt_a_token_at_a_time(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"text": "long text"}])
    found = counted(llama_base, path, rows=1, max_length=1)
    assert (found.rows_dropped, found.supervised_tokens) == (1, 0)
    with pytest.raises(PipelineError, match="No row has a token to compute the loss on"):
        tokenise(read_rows(path), load_tokenizer(llama_base), loss_on=None, max_length=1, split_texts=True)


def test_the_column_of_groups_is_no_part_of_a_row(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = [{"text": "long " * 3, "customer": f"{number}"} for number in range(4)]
    assert counted(llama_base, write_jsonl(rows), rows=4, group_by="customer").rows == 4


def test_texts_are_split_and_lose_nothing(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    found = counted(llama_base, write_jsonl([{"text": "long " * 30}, {"text": "short"}]), rows=2, max_length=20)
    assert (found.rows_split, found.rows_cut, found.tokens_lost, found.too_long) == (1, 0, 0, [])
    assert found.supervised_tokens == found.tokens - 2
    assert found.longest > 20


def test_what_a_base_can_not_be_trained_on_is_named(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    asked = {"role": "user", "content": "q"}
    rows = [{"messages": [asked, {"role": "assistant", "content": "a"}]}, {"messages": [asked]}]
    found = counted(llama_base, write_jsonl(rows), rows=2)
    assert (found.rows, found.rows_refused) == (1, 1)
    assert [(one.rows, one.detail) for one in found.refusals] == [
        (["line 2"], "has no assistant message to learn from; add one or remove the row")
    ]
    with pytest.raises(PipelineError, match="nothing for a loss on"):
        counted(llama_base, write_jsonl([{"text": "a"}]), rows=1, loss_on="assistant")


def test_an_audit_over_a_base_counts_them_in_a_process_of_its_own(llama_base: Path, pairs: Path) -> None:
    audit = sdk.datasets.check(pairs, base=llama_base, max_length=24, sample=6)
    assert audit.tokens == counted(llama_base, pairs, rows=12, sample=6, max_length=24).model_copy(
        update={"too_long": audit.tokens.too_long}
    )
    (too_long,) = [finding for finding in audit.findings if finding.kind == "too_long"]
    assert too_long.rows == audit.tokens.rows_cut > 0


def test_parquet_is_checked_where_its_library_is(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "a", ""]}), path)
    audit = sdk.datasets.check(path)
    assert {finding.kind: finding.examples[0].rows for finding in audit.findings} == {
        "empty": ["row 4"],
        "exact_duplicate": ["row 1", "row 3"],
    }
