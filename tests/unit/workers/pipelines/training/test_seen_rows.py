"""The first rows of a training as they are recorded: those that its steps took, cut and rendered as these got them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import templates
from support.architectures import save_model
from support.trainings import LABELLED, PREFERENCES, Checkpoints, inputs_of, run_training, save_jsonl

from sdk.schemas.job_requests import SweepPlace
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_rows import MOST_MEMBER_BYTES, MOST_SEEN_BYTES, SeenText, TrainingRows
from sdk.validation import build
from workers.pipelines.data.examples import IGNORED, Example, learnt_runs
from workers.pipelines.orders import OrderedSource
from workers.pipelines.training import loop
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.seen_rows import _pieces, first_rows

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

Step = list[tuple[list[int], list[int]]]


def whole(text: SeenText) -> str:
    """The text of a row of which nothing is left out."""
    (piece,) = text.pieces
    assert text.left_out_tokens == 0
    return piece.text


def marked(text: SeenText) -> list[str]:
    return [part for piece in text.pieces for part, learnt in piece.parts() if learnt]


def seen(base: Path, data: Any, **options: Any) -> tuple[TrainingRows, Inputs]:
    rest = {name: options.pop(name) for name in list(options) if name not in TrainingSpec.model_fields}
    given = inputs_of(base, data, spec=build(TrainingSpec, **{"max_steps": 8, "batch_size": 2, **options}), **rest)
    return first_rows(given), given


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The tokens and labels of each row of each step that is taken from now on."""
    taken: list[Step] = []
    take = loop.take_step

    def note(shared: Any, adapter: Any, batch: Any) -> None:
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        ids, labels = (batch[name].tolist() for name in ("input_ids", "labels"))
        taken.append([(i[:n], one[:n]) for i, one, n in zip(ids, labels, lengths, strict=True)])
        take(shared, adapter, batch)

    monkeypatch.setattr(loop, "take_step", note)
    return taken


def require_of_steps(recorded: TrainingRows, taken: list[Step], tokenizer: Any) -> None:
    """Hold a record against what the steps got."""
    for step, texts in itertools.groupby(recorded.texts, key=lambda text: text.step):
        rows = {
            str(tokenizer.decode(ids)): [tokenizer.decode(ids[a:b]) for a, b in learnt_runs(labels)]
            for ids, labels in taken[step - 1]
        }
        assert {whole(text): marked(text) for text in texts} == rows


CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {number} 🙂"},
            {"role": "assistant", "content": f"{'日本語 ' * number}👩‍🚀<red> 🙂"},
        ]
    }
    for number in range(14)
]


def test_record_has_the_tokens_and_labels_that_the_steps_got(tmp_path: Path, steps: list[Step]) -> None:
    base = save_model(tmp_path / "base", "llama")
    data = save_jsonl(tmp_path / "rows.jsonl", CHATS)
    how = {"add_tokens": ["<red>"], "holdout": 0.25, "max_length": 96, "batch_size": 2, "grad_accum": 2, "seed": 5}
    checkpoints = Checkpoints(tmp_path / "kept", every_steps=2)
    how |= {"method": "lora", "rank": 2}
    found = run_training(base, data, tmp_path / "out", max_steps=2, lr=1e-2, checkpoints=checkpoints, **how)
    recorded = found.seen
    assert recorded is not None
    given = inputs_of(base, data, spec=build(TrainingSpec, **how))
    require_of_steps(recorded, steps, given.tokenizer)
    # Two steps of four rows, and none that they didn't take; shuffled, and with the held-out rows left out.
    assert [text.step for text in recorded.texts] == [1] * 4 + [2] * 4
    assert (recorded.rows, len(CHATS)) == (len(given.learnt), 14)
    lines = [text.where for text in recorded.texts]
    assert lines != sorted(lines)
    held_out = {row.where for row in given.learnt}
    assert set(lines) <= held_out < {f"line {number}" for number in range(1, 15)}
    for text in recorded.texts:
        asked = CHATS[int(text.where.removeprefix("line ")) - 1]["messages"][0]["content"]
        assert asked in whole(text)
    # Long ones were cut, in the middle of a character too.
    assert {text.tokens for text in recorded.texts if text.stop is None} == {96}
    assert any(text.stop is not None for text in recorded.texts)

    resumed = run_training(
        base, data, tmp_path / "on", max_steps=2, lr=1e-2, **how,
        checkpoints=Checkpoints(tmp_path / "unused", resume=tmp_path / "kept" / "step-00000002"),
    )  # fmt: skip
    assert resumed.seen == recorded


def test_both_answers_of_a_preference_are_shown_together(llama_base: Path, preferences: Path) -> None:
    found, _ = seen(llama_base, preferences)
    assert [text.answer for text in found.texts] == ["chosen", "rejected"] * 12
    for chosen, rejected in zip(found.texts[::2], found.texts[1::2], strict=True):
        row = PREFERENCES[int(chosen.where.removeprefix("line ")) - 1]
        assert chosen.where == rejected.where
        assert whole(chosen).startswith(row["prompt"] + row["chosen"])
        assert whole(rejected).startswith(row["prompt"] + row["rejected"])


def test_labels_and_desirable_answers_are_said(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    found, _ = seen(llama_base, write_jsonl(LABELLED), objective="kto")
    for text in found.texts:
        row = LABELLED[int(text.where.removeprefix("line ")) - 1]
        assert (text.desirable, marked(text)[0].startswith(row["completion"])) == (row["label"], True)
    rows = [{"text": f"text {number}", "label": f"l{number % 3}"} for number in range(6)]
    labelled, _ = seen(llama_base, write_jsonl(rows, "labels.jsonl"))
    for text in labelled.texts:
        row = rows[int(text.where.removeprefix("line ")) - 1]
        assert (row["text"] in whole(text), text.label, marked(text)) == (True, row["label"], [])


def test_rows_of_several_files_name_theirs(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    sources = [
        OrderedSource(path=write_jsonl(rows, name), name=name, weight=weight)
        for name, weight, rows in (
            ("few", 9.0, [{"prompt": "few ", "completion": "a"}]),
            ("many", 1.0, [{"prompt": f"many {number} ", "completion": "b"} for number in range(19)]),
        )
    ]
    found, _ = seen(llama_base, sources, max_steps=40)
    assert len(found.texts) == 20
    for text in found.texts:
        line, _, name = text.where.partition(" of ")
        number = int(line.removeprefix("line ")) - 1
        assert whole(text).startswith("few a" if name == "few" else f"many {number} b")
    assert sum(text.where.endswith("few") for text in found.texts) == 18


@pytest.mark.parametrize(
    ("sweep", "most"), [(None, MOST_SEEN_BYTES), (SweepPlace(sweep="s", number=1), MOST_MEMBER_BYTES)]
)
def test_record_keeps_its_limit_and_shows_what_is_learnt(
    llama_base: Path, write_jsonl: Callable[..., Path], sweep: SweepPlace | None, most: int
) -> None:
    # Each token is written as six bytes of JSON.
    rows = [
        {"prompt": f"{number}" + "\u0001" * 70, "chosen": "\u0002" * 170, "rejected": "\u0003" * 170}
        for number in range(30)
    ]
    data = write_jsonl(rows)
    options = {"max_steps": 40, "sweep": sweep, "eval_data": data}
    found, _ = seen(llama_base, data, **options)
    assert most // 2 < len(found.model_dump_json().encode()) <= most
    assert [text.answer for text in found.texts] == ["chosen", "rejected"] * (len(found.texts) // 2)
    for text in found.texts:
        assert text.left_out_tokens
        assert marked(text)[0][0] == {"chosen": "\u0002", "rejected": "\u0003"}[text.answer]
    short = [{"prompt": f"{number}: ", "completion": "a"} for number in range(30)]
    data = write_jsonl(short, "short.jsonl")
    found, _ = seen(llama_base, data, **{**options, "eval_data": data})
    assert len(found.texts) == 20


@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "gemma3"])
@pytest.mark.parametrize("before", range(5))
def test_long_text_shows_its_beginning_and_what_is_learnt_in_whole_characters(name: str, before: int) -> None:
    tokenizer = templates.tokenizer_of(name)
    text, answer = "a" * before + "🙂行é" * 300, "👩‍🚀は🙂"
    ids, learnt = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, answer))
    labels = [IGNORED] * len(ids) + learnt + [IGNORED] * len(ids)
    example = Example([*ids, *learnt, *ids], labels, [], "", "")
    for most in range(60, 68):
        head, around = _pieces(example, tokenizer, most, labelled=False)
        assert text.startswith(head.text.lstrip())
        assert "\ufffd" not in head.text + around.text
        assert (head.first_token, head.supervised) == (0, [])
        assert [part for part, is_learnt in around.parts() if is_learnt] == [answer]
        assert most <= head.tokens + around.tokens <= most + 16
        before_it, _, after_it = around.text.partition(answer)
        assert before_it
        assert after_it
