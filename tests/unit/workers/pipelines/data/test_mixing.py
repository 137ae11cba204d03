"""Rows of several files: named by file, mixed by weight, split as one, and trained on to the byte as one file with the same rows is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixtures import files, mixture
from support.trainings import Checkpoints, run_training

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.rows.audit import audit_rows
from sdk.rows.splitting import rows_digest
from sdk.rows.texts import normalised_row
from sdk.schemas.held_out import HoldOut
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data.mixing import drawn_rows, weighted
from workers.pipelines.data.rows import check_files, read_split
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import OrderedSource
from workers.pipelines.training.checkpoints import Interrupted

SPEC = TrainingSpec(method="lora", rank=2, targets="qv", max_steps=4, batch_size=2, grad_accum=1)


def texts_of(rows: Any) -> list[str]:
    return [row.fields["completion"] for row in rows]


class TestWeights:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3)), min_size=1, max_size=8))
    def test_an_epoch_has_as_many_rows_as_the_files_and_each_has_its_share(
        self, given: list[tuple[int, float]]
    ) -> None:
        rows, weights = [one for one, _ in given], [weight for _, weight in given]
        drawn = drawn_rows(rows, weights)
        assert sum(drawn) == sum(rows)
        for many, weight in zip(drawn, weights, strict=True):
            assert abs(many - sum(rows) * weight / sum(weights)) < 1 + 1e-6

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(1, 12), min_size=2, max_size=3),
        st.lists(st.floats(0.5, 4), min_size=3, max_size=3),
        st.integers(0, 9),
    )
    def test_no_row_comes_again_before_all_of_its_file_have_come(
        self, tmp_path_factory: pytest.TempPathFactory, counts: list[int], weights: list[float], seed: int
    ) -> None:
        folder = tmp_path_factory.mktemp("mixed")
        rows = check_files(files(folder, *[[f"{at}-{n}" for n in range(count)] for at, count in enumerate(counts)]))
        weights = weights[: len(counts)]
        expected = drawn_rows(counts, weights)
        if 0 in expected:
            with pytest.raises(PipelineError, match="gives none of the"):
                weighted(rows, weights, seed)
            return
        mixed = weighted(rows, weights, seed)
        often = Counter(texts_of(mixed))
        assert len(mixed) == sum(counts)
        assert mixed.by_file() == expected
        for at, (count, many) in enumerate(zip(counts, expected, strict=True)):
            found = [often[f"{at}-{n}"] for n in range(count)]
            assert sum(found) == many
            assert max(found) - min(found) <= 1
        assert texts_of(weighted(rows, weights, seed)) == texts_of(mixed)

    def test_the_seed_chooses(self, tmp_path: Path) -> None:
        rows = check_files(files(tmp_path, [f"a{n}" for n in range(50)], [f"b{n}" for n in range(50)]))
        drawn = [frozenset(texts_of(weighted(rows, [1, 3], seed))) for seed in range(3)]
        assert len(set(drawn)) == 3
        # The same on any machine and in any release: a training that is made again has the same rows.
        assert rows_digest(weighted(rows, [1, 3], 0)) == PINNED


PINNED = "07e24dc3a3ca838052714f3829adabed7d66dee3abc3190b14c60166284c3787"


class TestRows:
    def test_a_bad_row_is_named_by_its_line_and_its_file(self, tmp_path: Path) -> None:
        given = files(tmp_path, ["x"], ["y", {"prompt": "p"}], [{"text": "z"}])
        with pytest.raises(PipelineError) as caught:
            check_files(given)
        assert str(caught.value) == (
            "2 of 4 rows can't be used: line 2 of b has no `completion`; line 1 of c is a text row among prompt rows; correct or remove "
            "them, then try again"
        )

    def test_a_file_without_rows_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(PipelineError, match="b has no rows; leave it out, or give it some"):
            check_files(files(tmp_path, ["x"], []))

    def test_the_audit_names_what_is_in_two_files(self, tmp_path: Path) -> None:
        twice = "a longer text that is in both of the files, word by word"
        one, two = (
            [{"text": "one"}, {"text": twice}],
            [{"text": f"  {twice.upper()}"}, {"text": "one"}, {"text": "two"}],
        )
        found = audit_rows(files(tmp_path, one, two), label="a, b")
        said = {finding.kind: [example.rows for example in finding.examples] for finding in found.findings}
        assert said == {
            "exact_duplicate": [["line 1 of a", "line 2 of b"]],
            "normalised_duplicate": [["line 2 of a", "line 1 of b"]],
        }
        assert (found.rows, found.usable_rows) == (5, 5)


WORDS = st.lists(
    st.sampled_from(["a", "A ", "b", "\uff42", "c", "d", "straße", "STRASSE", "e f", "e  F"]), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS, WORDS, st.floats(0.05, 0.9), st.integers(0, 99))
def test_no_text_is_on_both_sides_of_a_split_of_several_files(
    tmp_path_factory: pytest.TempPathFactory, a: list[str], b: list[str], c: list[str], share: float, seed: int
) -> None:
    given = files(tmp_path_factory.mktemp("split"), a, b, c)
    try:
        sides = read_split(given, HoldOut(share, seed), columns=None)
    except PipelineError:
        # All rows say the same, or all of one file are held out.
        return
    assert sides.held_out is not None
    training, held = ({normalised_row(row) for row in side} for side in (sides.training, sides.held_out))
    assert training
    assert held
    assert training.isdisjoint(held)
    assert len(sides.training) + len(sides.held_out) == len(a) + len(b) + len(c)


def run(base: Path, data: Path | list[OrderedSource], out: Path, **options: Any) -> TrainingReport:
    checkpoints = options.pop("checkpoints", None)
    return run_training(base, data, out, spec=SPEC.model_copy(update=options), checkpoints=checkpoints)


FIRST, SECOND = [f"number {n}" for n in range(6)], [f"letter {letter}" for letter in "opqrst"]


def test_files_without_weights_train_as_one_file_of_all_their_rows(llama_base: Path, tmp_path: Path) -> None:
    given = files(tmp_path, FIRST, SECOND)
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join(file.path.read_bytes() for file in given))
    report = run(llama_base, mixture(given), tmp_path / "several", holdout=0.25)
    one = run(llama_base, whole, tmp_path / "one", holdout=0.25)
    assert (tmp_path / "several" / WEIGHTS_FILE).read_bytes() == (tmp_path / "one" / WEIGHTS_FILE).read_bytes()
    assert {**report.training, "audit": None} == {**one.training, "audit": None}
    assert report.sources is not None
    assert [source.weight for source in report.sources] == [None, None]
    assert sum(source.rows for source in report.sources) == report.rows == 9
    assert one.sources is None


def test_weights_are_recorded_and_a_training_that_was_stopped_ends_with_the_same_bytes(
    llama_base: Path, tmp_path: Path
) -> None:
    given = files(tmp_path, FIRST, SECOND)
    weighed = mixture(given, (1.0, 3.0))
    report = run(llama_base, weighed, tmp_path / "whole")
    assert report.sources is not None
    assert [(each.weight, each.rows, each.epoch_rows) for each in report.sources] == [(1.0, 6, 3), (3.0, 6, 9)]
    assert report.rows == 12
    other = run(llama_base, mixture(given, (3.0, 1.0)), tmp_path / "other")
    weights = (tmp_path / "whole" / WEIGHTS_FILE).read_bytes()
    assert weights != (tmp_path / "other" / WEIGHTS_FILE).read_bytes()
    assert other.rows == 12

    def checkpoints(resume: Path | None, *, stop: bool) -> Checkpoints:
        return Checkpoints(
            tmp_path / "checkpoints",
            every_steps=2,
            must_stop=lambda: stop and (tmp_path / "checkpoints").exists(),
            resume=resume,
        )

    with pytest.raises(Interrupted):
        run(llama_base, weighed, tmp_path / "stopped", checkpoints=checkpoints(None, stop=True))
    (written, *_) = sorted(path.parent for path in (tmp_path / "checkpoints").rglob(WEIGHTS_FILE))
    run(llama_base, weighed, tmp_path / "resumed", checkpoints=checkpoints(written, stop=False))
    assert (tmp_path / "resumed" / WEIGHTS_FILE).read_bytes() == weights
    again = mixture(given, (1.0, 2.0))
    with pytest.raises(PipelineError, match="the rows"):
        run(llama_base, again, tmp_path / "refused", checkpoints=checkpoints(written, stop=False))
