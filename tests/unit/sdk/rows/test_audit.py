"""What the audit finds in files with faults of every kind, by row, and that it finds nothing where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.trainings import save_jsonl

import sdk
from sdk.cli import cli
from sdk.errors import InvalidData, InvalidInput, NotFound
from sdk.schemas.data_audit import DataAudit

LONG = "Say in one sentence what the sea looks like on a grey winter morning, please"
GOOD = [{"prompt": f"question {word}?", "completion": word} for word in ("one", "two", "three")]
PAIR = {"prompt": LONG, "completion": "flat"}


def said(**finding: Any) -> dict[str, list[list[str]]]:
    """What is found, by kind, as the lines that are named."""
    return {kind: [[f"line {line}" for line in group] for group in groups] for kind, groups in finding.items()}


def found(audit: DataAudit) -> dict[str, list[list[str]]]:
    """The same of an audit, and that it counts as many as it names."""
    for finding in audit.findings:
        if finding.kind != "labels":
            assert finding.rows == sum(max(1, len(one.rows) - 1) for one in finding.examples), finding
    return {finding.kind: [example.rows for example in finding.examples] for finding in audit.findings}


def chat(*said: str) -> dict[str, Any]:
    """A conversation."""
    return {"messages": [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]}


BAD: list[tuple[str, list[Any], dict[str, list[list[str]]]]] = [
    ("nothing", GOOD, {}),
    ("another language", [{"text": "Привет, мир"}, {"text": "こんにちは世界"}, {"text": "مرحبا بالعالم"}], {}),
    ("joiners of Persian and of pictures", [{"text": "نمی\u200cخواهم"}, {"text": "👩\u200d🚀 flies"}], {}),
    ("line breaks and tabs", [{"text": "one\n\ttwo\r\nthree"}], {}),
    ("a text that others end with", [{"text": "warm"}, {"text": "it is warm"}, {"text": "warm it is not"}], {}),
    ("one prompt of many rows", [{"prompt": "Continue:", "completion": "a"}, {"prompt": "Go:", "completion": "a"}], {}),
    ("nothing that can be used", [7, None], said(unusable=[[1], [2]])),
    ("no text", [*GOOD, {"prompt": "q", "completion": ""}], said(empty=[[4]])),
    ("white space", [*GOOD, {"prompt": " \t", "completion": "a"}], said(empty=[[4]])),
    ("a key that is not there", [*GOOD, {"prompt": "q"}], said(empty=[[4]])),
    ("a key that is null", [*GOOD, {"prompt": "q", "completion": None}], said(empty=[[4]])),
    ("an empty row", [*GOOD, {}], said(empty=[[4]])),
    ("an empty conversation", [chat("a", "b"), {"messages": []}], said(empty=[[2]])),
    ("an empty answer", [chat("a", "b"), chat("c", " ")], said(empty=[[2]])),
    ("an empty label", [{"text": t, "label": label} for t, label in ("ax", "by", "c ")], said(empty=[[3]])),
    ("one label", [{"text": "a", "label": 1}, {"text": "b", "label": "1"}], said(labels=[[]])),
    ("too many labels", [{"text": f"t{n}", "label": n} for n in range(1001)], said(labels=[[]])),
    ("no object", [*GOOD, ["q", "a"]], said(unusable=[[4]])),
    ("another shape", [*GOOD, {"text": "a"}], said(unusable=[[4]])),
    ("a key too many", [*GOOD, {**GOOD[0], "id": 7}], said(unusable=[[4]])),
    ("a number for a text", [*GOOD, {"prompt": 7, "completion": "a"}], said(unusable=[[4]])),
    ("half a surrogate pair", [*GOOD, {"prompt": "\ud800", "completion": "a"}], said(unusable=[[4]])),
    ("the same", [*GOOD, GOOD[1], GOOD[1]], said(exact_duplicate=[[2, 4, 5]])),
    ("the same in another order", [*GOOD, dict(reversed(GOOD[1].items()))], said(exact_duplicate=[[2, 4]])),
    ("the same conversation", [chat("a", "b"), chat("c", "d"), chat("a", "b")], said(exact_duplicate=[[1, 3]])),
    (
        "other letters",
        [*GOOD, {"prompt": "QUESTION  one?\n", "completion": "Ｏｎｅ"}],
        said(normalised_duplicate=[[1, 4]]),
    ),
    (
        "an accent spelt otherwise",
        [{"text": "caf\u00e9 straße"}, {"text": "cafe\u0301 STRASSE"}],
        said(normalised_duplicate=[[1, 2]]),
    ),
    (
        "the same words, asked and answered otherwise",
        [{"prompt": "a b", "completion": "c"}, {"prompt": "a", "completion": "b c"}],
        said(near_duplicate=[[1, 2]]),
    ),
    ("a word more", [PAIR, {**PAIR, "prompt": LONG + " now"}], said(near_duplicate=[[1, 2]])),
    (
        "a character more, without any spaces",
        [{"text": "".join(map(chr, range(0x4E00, 0x4E80)))}, {"text": "".join(map(chr, range(0x4E00, 0x4E81)))}],
        said(near_duplicate=[[1, 2]]),
    ),
    ("half of the words", [{"text": "a b c d e f g h i j"}, {"text": "a b c d e v w x y z"}], {}),
    ("two answers", [PAIR, {**PAIR, "completion": "wild"}], said(conflict=[[1, 2]])),
    (
        "two labels",
        [{"text": "good film", "label": "a"}, {"text": "Good film", "label": "b"}],
        said(conflict=[[1, 2]]),
    ),
    ("two answers in a conversation", [chat("a", "b"), chat("a", "c")], said(conflict=[[1, 2]])),
    (
        "the other preferred",
        [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "P", "chosen": "b", "rejected": "A"}],
        said(conflict=[[1, 2]]),
    ),
    (
        "other answers to a preference",
        [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "c"}],
        {},
    ),
    (
        "a preference again",
        [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p ", "chosen": "A", "rejected": "b"}],
        said(normalised_duplicate=[[1, 2]]),
    ),
    ("no width", [{"text": "a\u200bb"}], said(control_characters=[[1]])),
    ("a joiner behind Latin", [{"text": "pass\u200dword"}], said(control_characters=[[1]])),
    ("right to left", [{"text": "a\u202eb"}], said(control_characters=[[1]])),
    ("NUL and a bell", [{"text": "a\u0000b"}, {"text": "c\u0007d"}], said(control_characters=[[1], [2]])),
    ("what could not be read", [{"text": "caf\ufffd"}], said(control_characters=[[1]])),
    ("in a tool's answer", [chat("a\ufeff", "b")], said(control_characters=[[1]])),
]


@pytest.mark.parametrize(("rows", "wanted"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_wrong_is_found_by_row(rows: list[Any], wanted: dict[str, list[list[str]]], tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "rows.jsonl", rows)
    audit = sdk.datasets.check(path)
    assert found(audit) == wanted
    assert audit.clean is (not wanted)
    assert audit.rows == len(rows)
    assert audit.complete


@pytest.mark.parametrize(
    ("name", "content", "kinds"),
    [
        ("a.csv", "text,label\ngood,a\ngood,a\nbad,b\n", {"exact_duplicate": [["line 2", "line 3"]]}),
        ("a.csv", "text\r\ngood\r\ngood\r\n", {"exact_duplicate": [["line 2", "line 3"]]}),
        ("a.csv", "\ufefftext\ngood\n\ngood\n", {"exact_duplicate": [["line 2", "line 4"]]}),
        ("a.csv", "text,note\ngood,\nbad,n\n", {"unusable": [["line 3"]]}),
        ("a.csv", "body\ngood\n", {"unusable": [["line 2"]]}),
        ("a.jsonl", '\ufeff{"text": "a"}\r\n{"text": "a"}\r\n', {"exact_duplicate": [["line 1", "line 2"]]}),
        ("a.jsonl", '{"text": "a"}\n{"text": "b', {"unusable": [["line 2"]]}),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', {"unusable": [["line 1"]]}),
        ("a.jsonl", '{"text": 1e999}\n', {"unusable": [["line 1"]]}),
        ("a.jsonl", "[" * 9000 + "\n", {"unusable": [["line 1"]]}),
        ("a.json", '[{"text": "a"}, 7, {}]', {"unusable": [["row 2"]], "empty": [["row 3"]]}),
        ("a.csv", 'text\n"two\nlines"\ngood\ngood\n', {"exact_duplicate": [["line 4", "line 5"]]}),
        ("a.csv", "text,label\ngood\n", {"unusable": [["line 2"]]}),
        ("a.json", '[{"text": "a"}, {"text": "b"}, {"text": "a"}]', {"exact_duplicate": [["row 1", "row 3"]]}),
        ("a.jsonl", '{"text": "a"}\n\nnonsense\n{"text": NaN}\n', {"unusable": [["line 3"], ["line 4"]]}),
        ("a.jsonl", "prompt,completion\na,b\n", {"unusable": [["line 1"], ["line 2"]]}),
    ],
)
def test_rows_of_any_kind_of_file_are_named_as_messages_name_them(
    name: str, content: str, kinds: dict[str, list[list[str]]], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert found(sdk.datasets.check(path)) == kinds


def test_held_out_rows_among_the_others_are_told_once_each(tmp_path: Path) -> None:
    rows = [*GOOD, PAIR, {"prompt": f"Before. {LONG}. After it, and more of it.", "completion": "long"}]
    held = [
        GOOD[1],
        {**GOOD[2], "completion": "THREE"},
        {**PAIR, "prompt": LONG + " now"},
        {"prompt": "nothing like it is anywhere", "completion": "no"},
        {"prompt": ""},
    ]
    for name, those in (("rows", rows), ("held", held)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in those))
    audit = sdk.datasets.check(tmp_path / "rows.jsonl", eval_data=tmp_path / "held.jsonl")
    told = {
        finding.kind: [(one.held_out, one.rows) for one in finding.examples]
        for finding in audit.findings
        if finding.kind.startswith("held_out_") and finding.kind != "held_out_unusable"
    }
    assert told == {
        "held_out_exact": [("line 1", ["line 2"])],
        "held_out_normalised": [("line 2", ["line 3"])],
        "held_out_near": [("line 3", ["line 4"])],
    }
    assert found(audit)["held_out_unusable"] == [["line 5"]]
    assert audit.held_out_rows == 4


def test_labels_of_held_out_rows_that_no_other_row_has_are_named(tmp_path: Path) -> None:
    for name, labels in (("rows", "aab"), ("held", "bccd")):
        lines = [json.dumps({"text": f"{name} {n}", "label": label}) for n, label in enumerate(labels)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (finding,) = sdk.datasets.check(tmp_path / "rows.jsonl", eval_data=tmp_path / "held.jsonl").findings
    assert (finding.kind, finding.rows) == ("held_out_labels", 3)
    assert finding.examples[0].detail == "have labels that no row here has: 'c', 'd'"


def test_what_most_rows_have_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    begins = "Answer in one word, as a patient teacher of arithmetic would: what comes after"
    save_jsonl(path, [{"prompt": f"{begins} {n}?", "completion": f"{n + 1}"} for n in range(30)])
    (finding,) = sdk.datasets.check(path).findings
    assert (finding.kind, finding.rows) == ("near_duplicate", 29)
    for example in finding.examples:
        assert str(example.detail).endswith(", 0.00 without what most rows have in common")


def test_what_all_rows_are_is_counted(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in ("abcd", "жжжж", "漢字漢字 12", "あ!")])
    audit = sdk.datasets.check(path)
    assert audit.shape == "text"
    assert {bucket.up_to: bucket.rows for bucket in audit.lengths} == {2: 1, 4: 2, 8: 1}
    shares = {"Latin": 4 / 13, "Cyrillic": 4 / 13, "Han": 4 / 13, "Hiragana": 1 / 13}
    assert audit.scripts == pytest.approx(shares)
    assert audit.characters == 4 + 4 + 7 + 2


def test_columns_and_the_number_of_examples_are_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("id,question,answer\n" + "".join(f"{number},same,thing\n" for number in range(9)))
    audit = sdk.datasets.check(path, columns="prompt=question,completion=answer", examples=2)
    (finding,) = audit.findings
    assert (finding.kind, finding.rows, finding.examples[0].rows) == (
        "exact_duplicate",
        8,
        ["line 2", "line 3", "line 4"],
    )


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, NotFound, "there is no file"),
        ("", InvalidData, "is empty"),
        ('[{"text": "a"}', InvalidData, "not a JSON list"),
        ('[{"text": "a"}] []', InvalidData, "stands behind the list"),
        ("[]", InvalidData, "has no rows"),
        ("text\n", InvalidData, "has no rows"),
        (b"text\n\xff\xfe\n", InvalidData, "neither JSONL, CSV in UTF-8 nor Parquet"),
    ],
)
def test_a_file_that_is_none_of_rows_is_refused(
    content: str | bytes | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=message):
        sdk.datasets.check(path)


def test_a_parquet_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    import pyarrow  # noqa: F401

    (tmp_path / "rows").write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidData, match="Parquet file can't be read"):
        sdk.datasets.check(tmp_path / "rows")


def test_what_needs_a_base_is_refused_without_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(InvalidInput, match="name it with base="):
        sdk.datasets.check(path, max_length=100)
    with pytest.raises(InvalidInput, match="give 1 or more"):
        sdk.datasets.check(path, examples=0)
    with pytest.raises(NotFound, match="there is no folder"):
        sdk.datasets.check(path, base=tmp_path / "base")


def test_the_exit_code_says_whether_anything_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    # Nobody can be asked there.
    env = {"ADAPTERCTL_URL": "http://127.0.0.1:9"}
    clean = CliRunner(env=env).invoke(cli, ["data", "check", str(path)])
    assert (clean.exit_code, clean.stdout) == (0, "kind\trows\texample\theld_out\tdetail\n")
    assert clean.stderr.startswith("nothing is wrong with these rows\n")
    path.write_text('{"text": "one"}\n{"text": "one\\u202e"}\n{"text": "one"}\n')
    asked = ["data", "check", str(path), "--format"]
    quiet = CliRunner(env=env).invoke(cli, [*asked, "quiet"])
    assert (quiet.exit_code, quiet.stdout.split()) == (7, ["exact_duplicate", "control_characters"])
    piped = CliRunner(env=env).invoke(cli, [*asked[:-1], "--no-header"]).stdout.splitlines()
    assert piped[0] == "exact_duplicate\t1\tline 1,line 3\t\t"
    assert {len(line.split("\t")) for line in piped} == {5}
    table = CliRunner(env=env).invoke(cli, [*asked, "table"])
    assert "rows that repeat an earlier one: 1\n  line 1, line 3\n" in table.stdout
    assert "has U+202E RIGHT-TO-LEFT OVERRIDE" in table.stdout
    shown = json.loads(CliRunner(env=env).invoke(cli, [*asked, "json"]).stdout)
    assert DataAudit.model_validate(shown) == sdk.datasets.check(path)
