"""Rows of scores that are handed in cost in proportion to what is sent, and are read once."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable

import pytest
from support.scored_rows import CONDITIONS
from support.traced import traced

from registry.errors import Invalid
from registry.jobs.kinds.evaluation_rows import RowFacts, names_of, require_bounded
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowFile
from sdk.schemas.row_file import ANY_UNPACKED_BYTES, MOST_UNPACKED_TIMES, RowFileError, most_unpacked_bytes, read_rows
from sdk.schemas.work import EvaluationResult

SPEC = EvaluationSpec(metrics=["rouge_l", "bleu"], scorers=["style", "ok"])


def packed(lines: Iterable[str]) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def facts_of(raw: bytes, names: Iterable[str] = ("rouge_l",)) -> RowFacts:
    return RowFacts.of(io.BytesIO(raw), frozenset(names), size_bytes=len(raw))


def result(rows: int | None = 1, size_bytes: int = 1, **metrics: float) -> EvaluationResult:
    file = None if rows is None else RowFile(digest="a" * 64, size_bytes=size_bytes, rows=rows)
    report = EvaluationReport(metrics={"loss": 1.0, **metrics}, precision="float32", rows=file, conditions=CONDITIONS)
    return EvaluationResult(label="a@v1", digest="b" * 64, base_fingerprint="c" * 64, report=report)


def test_names_are_those_of_the_spec_and_what_the_report_has_of_its_scorers() -> None:
    reported = [
        "loss",
        "chrf",
        "scorer.style",
        "scorer.style.tone",
        "scorer.style.tone_rows",
        "scorer.styles",
        "scorer.no",
    ]
    found = names_of(SPEC, reported)
    assert found == {"accuracy", "acc", "acc_norm", "acc_bytes", "rouge_l", "bleu", "scorer.style", "scorer.style.tone"}


def test_reading_ends_at_the_first_score_that_nobody_asked_for() -> None:
    read: list[int] = []

    def lines() -> Iterable[str]:
        for row in range(3000):
            yield json.dumps({"row": row, "tokens": 1, "scores": {f"n{row}-{at}": 0.5 for at in range(200)}})

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            part = super().read(size)
            read.append(len(part))
            return part

    raw = packed(lines())
    with traced() as peak_bytes:
        found = RowFacts.of(Counted(raw), frozenset({"rouge_l"}), size_bytes=len(raw))
        # Each of the 600,000 names took some 200 bytes.
        assert peak_bytes() < 4_000_000
    assert found.unknown.startswith("n0-")
    assert found.totals is None
    assert sum(read) < len(raw) / 4


def test_a_small_file_does_not_unpack_to_more_than_a_registry_reads() -> None:
    raw = packed(f'{{"row": {row}, "tokens": 1, "prediction": "{"a" * 900}"}}' for row in range(200))
    size = len(gzip.decompress(raw))
    assert sum(1 for _ in read_rows(io.BytesIO(raw), most_bytes=size)) == 200
    with pytest.raises(RowFileError, match="line 200 is beyond"):
        list(read_rows(io.BytesIO(raw), most_bytes=size - 1))
    with pytest.raises(RowFileError, match="line 101 is beyond"):
        list(read_rows(io.BytesIO(raw), most_rows=100))
    assert most_unpacked_bytes(1000) == ANY_UNPACKED_BYTES + 1000 * MOST_UNPACKED_TIMES


class TestFacts:
    """What follows from the bytes of a file is kept, so that they are not read again."""

    def test_totals_are_kept_as_they_are(self) -> None:
        found = facts_of(packed(['{"row": 0, "tokens": 3, "loss_sum": 0.1, "scores": {"rouge_l": 0.3}}']))
        assert RowFacts.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert found.totals.means == {"rouge_l": 0.3, "loss": 0.1 / 3}
        assert found.judges({"rouge_l"})
        assert found.judges({"bleu"})
        assert (found.unknown_among({"rouge_l"}), found.unknown_among({"bleu"})) == (None, "rouge_l")

    def test_why_a_file_is_none_is_kept_too(self) -> None:
        found = facts_of(packed(['{"row": 0, "tokens": 1}', '{"row": 0, "tokens": 1}']))
        assert found.refused == "line 2: row 0 comes after row 0"
        assert found.judges({"rouge_l"})
        assert not found.replaces(found.to_json())

    def test_a_file_is_read_further_only_for_a_score_that_was_in_the_way(self) -> None:
        raw = packed(['{"row": 0, "scores": {"bleu": 1.0}}', '{"row": 1, "scores": {"chrf": 1.0}}'])
        first = facts_of(raw, ["rouge_l"])
        assert (first.unknown, first.judges({"rouge_l", "chrf"}), first.judges({"bleu"})) == ("bleu", True, False)
        second = facts_of(raw, ["bleu"])
        assert (second.unknown, second.replaces(first.to_json()), first.replaces(first.to_json())) == (
            "chrf",
            True,
            False,
        )
        whole = facts_of(raw, ["bleu", "chrf"])
        assert whole.replaces(second.to_json())
        assert not second.replaces(whole.to_json())
        assert whole.unknown_among({"chrf"}) == "bleu"


class TestBounds:
    """Reports are bounded before any file is read."""

    def test_rows_of_a_target_and_of_all(self) -> None:
        require_bounded([result(1_000_000)] * 4, SPEC)
        with pytest.raises(Invalid, match="1,000,000 rows of a target, or 4,000,000"):
            require_bounded([result(1_000_001)], SPEC)
        with pytest.raises(Invalid, match="4,000,000 of all targets"):
            require_bounded([*[result(1_000_000)] * 4, result(1)], SPEC)

    def test_bytes_of_a_file_and_of_all(self) -> None:
        require_bounded([result(1, 1024**3)] * 4, SPEC)
        with pytest.raises(Invalid, match="may have 1 GiB"):
            require_bounded([result(1, 1024**3 + 1)], SPEC)
        with pytest.raises(Invalid, match="all of a job 4 GiB"):
            require_bounded([*[result(1, 1024**3)] * 4, result()], SPEC)

    def test_metrics_of_a_report_and_names_of_its_scorers(self) -> None:
        require_bounded([result(None, **{f"m{at}": 0.0 for at in range(999)})], SPEC)
        with pytest.raises(Invalid, match="1001 metrics, and 1000 are allowed"):
            require_bounded([result(None, **{f"m{at}": 0.0 for at in range(1000)})], SPEC)
        with pytest.raises(Invalid, match="207 names, and 200 are allowed"):
            require_bounded([result(**{f"scorer.style.n{at}": 0.0 for at in range(201)})], SPEC)
