"""Held-out rows among training rows: found under a header that all rows share, with work that does not grow with both files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.fixtures import Limits
from support.held_out_rows import held_out as held_out_of

import sdk
from sdk.cli import cli
from sdk.errors import InvalidData, InvalidInput
from sdk.formats.rows import Row
from sdk.rows import held_out
from sdk.rows.audit import audit_rows
from sdk.rows.grams import Texts, contained, jaccard
from sdk.rows.held_out import HeldOutRows
from sdk.rows.holdout import split_unit
from sdk.rows.near import NEAR
from sdk.schemas.data_audit import DataAudit
from sdk.schemas.held_out import HoldOut

HEADER = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    " ### Instruction: "
)
_DRAW = random.Random(7)
WORDS = ["".join(_DRAW.choices("abcdefghijklmnop", k=_DRAW.randint(2, 9))) for _ in range(5000)]


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    """The same rows, whichever tests run before."""
    _DRAW.seed(7)


def said(words: int) -> str:
    """Words that nothing else says."""
    return " ".join(_DRAW.choices(WORDS, k=words))


def changed(text: str) -> str:
    """The same with a tenth of its words replaced."""
    words = text.split()
    for place in _DRAW.sample(range(len(words)), max(1, len(words) // 10)):
        words[place] = _DRAW.choice(WORDS)
    return " ".join(words)


def looked_up(held: list[str], training: list[str], *, at_once: int = 100) -> HeldOutRows:
    """What is found of held-out texts in training texts."""
    found = HeldOutRows()
    found.learn(0, Texts(held))
    found.ready()
    for first in range(0, len(training), at_once):
        found.look(first, Texts(training[first : first + at_once]))
    return found


def held_out_near(folder: Path, held: list[str], training: list[str]) -> int:
    """How many held-out rows are nearly a training row, by the audit."""
    for name, texts in (("rows", training), ("held", held)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    audit = sdk.datasets.check(folder / "rows.jsonl", eval_data=folder / "held.jsonl", examples=1)
    return sum(finding.rows for finding in audit.findings if finding.kind == "held_out_near")


def test_a_header_that_all_rows_share_costs_nothing() -> None:
    training = [said(20) for _ in range(400)]
    held = [changed(text) for text in training[:100]]
    found = looked_up([HEADER + text for text in held], [HEADER + text for text in training])
    # Looked up with the others, the grams of the header alone are more than a million pairs.
    assert found.pairs < len(held) * len(training)
    hits = [row == number for number, row in enumerate(found.likely().tolist())]
    assert sum(hits) >= 0.95 * len(held)


@pytest.mark.parametrize("words", [6, 20, 60, 300])
def test_near_rows_under_a_shared_header_are_found(words: int, tmp_path: Path) -> None:
    training = [said(words) for _ in range(300)]
    held = [HEADER + changed(text) for text in training[:100]] + [HEADER + said(words) for _ in range(50)]
    near = held_out_near(tmp_path, held, [HEADER + text for text in training])
    # With few words the header is most of a row, and any two rows are nearly the same.
    assert 95 <= near <= (100 if words > 6 else 150)


def test_rows_that_differ_by_a_number_alone_are_found(tmp_path: Path) -> None:
    held = [f"{HEADER}what comes after {number}?" for number in range(50)]
    training = [f"{HEADER}what comes after {number}?" for number in range(100, 200)]
    assert held_out_near(tmp_path, held, training) == 50


def test_rows_that_are_held_out_many_times_are_found(tmp_path: Path) -> None:
    text = said(40)
    assert held_out_near(tmp_path, [text] * 60, [said(40), changed(text)]) == 60


def test_what_is_found_does_not_depend_on_how_much_is_in_memory(limits: Limits) -> None:
    training = [HEADER + said(20) for _ in range(100)] + [changed(HEADER + said(3)) * 40]
    held = [changed(text) for text in training[:15] * 2] + training[-3:]
    wanted = looked_up(held, training)
    for most, at_once in ((1, 7), (50, 200), (1, 1)):
        limits(held_out, _MOST_PAIRS=most)
        assert looked_up(held, training, at_once=at_once).likely().tolist() == wanted.likely().tolist()


def test_what_a_training_holds_out_by_groups_can_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    customers = "aaabbbccc"
    rows = [{"text": said(20), "customer": customer} for customer in customers]
    rows[4]["text"] = rows[0]["text"] + " now"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (bare,) = sdk.datasets.check(path).findings
    assert (bare.kind, bare.rows) == ("unusable", 9)
    by_column = sdk.datasets.check(path, holdout_by="customer")
    assert [(each.kind, each.rows) for each in by_column.findings] == [("near_duplicate", 1)]
    assert by_column.held_out_rows is None
    found = {}
    for seed in range(9):
        asked = [
            "data",
            "check",
            str(path),
            "--holdout",
            "0.34",
            "--holdout-by",
            "customer",
            "--holdout-seed",
            f"{seed}",
        ]
        done = CliRunner().invoke(cli, [*asked, "--format", "json"])
        audit = DataAudit.model_validate_json(done.stdout)
        held = held_out_of([split_unit(row) for row in grouped(rows)], HoldOut(0.34, seed, "customer"))
        apart = held[0] != held[4]
        assert audit.held_out_rows == sum(held)
        assert [each.kind for each in audit.findings] == ["near_duplicate", *(["held_out_near"] if apart else [])]
        found[apart] = done.exit_code
    assert found == {True: 7, False: 7}


def grouped(rows: list[dict[str, str]]) -> list[Row]:
    """Rows of texts with their customers."""
    return [Row("", "text", {"text": row["text"]}, group=row["customer"]) for row in rows]


def test_a_split_that_a_training_would_refuse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "A"}\n')
    with pytest.raises(InvalidData, match="all rows are the same text"):
        sdk.datasets.check(path, holdout=0.5)
    with pytest.raises(InvalidInput, match="give holdout, such as"):
        sdk.datasets.check(path, holdout_seed=1)
    with pytest.raises(InvalidInput, match="leave out holdout, or eval_data"):
        sdk.datasets.check(path, holdout=0.5, eval_data=path)


@pytest.mark.parametrize("header", ["", HEADER])
def test_pairs_that_straddle_a_split_are_those_that_a_comparison_of_all_finds(header: str, tmp_path: Path) -> None:
    texts = [header + said(20) for _ in range(120)]
    texts += [changed(text) for text in texts[:60]] + [text.upper() for text in texts[60:70]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    how = HoldOut(0.3, seed=5)
    units = [split_unit(Row("", "text", {"text": text})) for text in texts]
    out = held_out_of(units, how)
    sides = [
        [text.lower() for text, is_out in zip(texts, out, strict=True) if is_out is side] for side in (False, True)
    ]
    near = sum(any(max(contained(one, other), jaccard(one, other)) >= NEAR for other in sides[0]) for one in sides[1])
    audit = audit_rows(tmp_path / "rows.jsonl", label="", hold_out=how, most_examples=200)
    found = {finding.kind: finding for finding in audit.findings if finding.kind.startswith("held_out_")}
    assert set(found) == {"held_out_near"}
    assert 0.95 * near <= found["held_out_near"].rows <= near
    assert near > 10
    for example in found["held_out_near"].examples:
        one, other = (int(str(where).split()[1]) - 1 for where in (example.held_out, *example.rows))
        assert (out[one], out[other]) == (True, False)
    assert (audit.rows, audit.held_out_rows) == (len(texts), sum(out))
