"""What a dataset may be called."""

from __future__ import annotations

import pytest

from sdk.formats.dataset_names import may_be_digest, no_dataset_name, split_dataset_name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "reviews",
        "Reviews of 2026.jsonl",
        "3f1c2a9b7d20.jsonl",
        "facade",
        "1234567",
        "отзывы с сайта.jsonl",
        "日本 語",
        "データ2.csv",
        "e\u0301t\u00e9",
        "model_β2",
        "β-Test",
        "naïve",
        "x" * 200,
    ],
)
def test_a_name_that_reads_as_what_it_is_can_be_given(name: str) -> None:
    assert no_dataset_name(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("3f1c2a9b", "looks like a digest"),
        ("DEADBEEF", "looks like a digest"),
        ("20261129", "looks like a digest"),
        (" 3f1c2a9b", "looks like a digest"),
        ("sha256-of-it", "looks like a digest"),
        ("reviews@v2", "ends in a number"),
        ("a/b", "reads as a path"),
        ("~", "reads as a path"),
        ("rev\u200biews", "can't be seen"),
        ("re\u2060views", "can't be seen"),
        ("a\u00a0b", "can't be seen"),
        ("a\u3164b", "can't be seen"),
        ("swei\u202ever", "can't be seen"),
        ("reviews ", "a space at an end"),
        ("\uff52eviews", "written plainly, it is 'reviews'"),
        ("\ufb01les", "written plainly, it is 'files'"),
        ("r\u0435views", "mixes alphabets whose letters look alike, LATIN and CYRILLIC"),
        ("revi\u03b5ws.jsonl", "LATIN and GREEK"),
        ("\u0441\u043e\u0440\u0443.jsonl", "written in Latin letters, and some are CYRILLIC"),
        ("\u03bf", "written in Latin letters, and some are GREEK"),
    ],
)
def test_a_name_that_reads_as_something_else_is_refused(name: str, said: str) -> None:
    unfit = no_dataset_name(name)
    assert said in unfit
    assert unfit.isascii()


def test_no_name_can_be_given_that_is_not_looked_up() -> None:
    for name in ("3f1c2a9b", "3f1c2a9b7d20", "sha256:3f1c2a9b7d20"):
        assert may_be_digest(name)
        assert no_dataset_name(name) is not None
    assert split_dataset_name("3f1c2a9b@v2") == ("3f1c2a9b", 2)
