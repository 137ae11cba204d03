"""Scorers of a user's own: installed as distributions, and whatever they do loses only their own scores."""

from __future__ import annotations

import json
import math
import re
import sys
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluated import evaluated

from sdk.schemas.evaluation import EvaluationSpec, RowScore
from sdk.schemas.work import DIRECTIONS_GROUP, MOST_DIRECTIONS, MOST_SCORERS, SCORERS_GROUP, ScorerInfo
from workers.installed_scorers import announced_scorers, installed_scorers
from workers.pipelines.errors import PipelineError
from workers.pipelines.scoring import scorers, target
from workers.pipelines.scoring.scorers import Scorer, add_scores, load_scorers
from workers.pipelines.scoring.texts import TextScores

DOCS = Path(__file__).parents[5] / "docs" / "evaluation.md"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Build and install a distribution as in the documentation, by another name or version, or with code at its beginning."""
    from hatchling.build import build_wheel

    text = DOCS.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```\w+\n# ([\w.]+)\n(.*?)```", text, re.DOTALL))

    def installed(name: str = "house-scorers", *, version: str = "1.0", before: str = "") -> None:
        folder = tmp_path / f"{name}-{version}"
        folder.mkdir()
        module = name.replace("-", "_")
        (folder / f"{module}.py").write_text(before + blocks["house_scorers.py"])
        project = blocks["pyproject.toml"].replace("house-scorers", name).replace("house_scorers", module)
        (folder / "pyproject.toml").write_text(project.replace('"1.0"', f'"{version}"'))
        monkeypatch.chdir(folder)
        with zipfile.ZipFile(folder / build_wheel(str(folder))) as file:
            file.extractall(folder / "site")
        monkeypatch.syspath_prepend(folder / "site")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return installed


def run(base: Path, data: Path, out: Path, **spec: Any) -> tuple[Any, list[RowScore]]:
    return evaluated(base, data, out, EvaluationSpec(batch_size=4, max_new_tokens=3, **spec))


def test_the_example_of_the_documentation_scores_each_row(
    install: Callable[..., None], llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    report, rows = run(llama_base, pairs, tmp_path, generate_rows=3, scorers=["politeness"])
    scored = [row for row in rows if row.scores]
    assert len(scored) == 3
    for row in scored:
        assert set(row.scores) == {"rouge_l", "scorer.politeness.please", "scorer.politeness.words"}
        assert row.scores["scorer.politeness.words"] == len((row.prediction or "").split())
    assert report.metrics["scorer.politeness.words"] == pytest.approx(
        sum(row.scores["scorer.politeness.words"] for row in scored) / 3
    )
    assert report.conditions.metrics["scorer.politeness"] == "house-scorers 1.0"
    assert report.conditions.failed == {}

    def no_base(*given: Any, **options: Any) -> Any:
        raise AssertionError("a base is loaded")

    monkeypatch.setattr(target, "load_base", no_base)
    with pytest.raises(PipelineError, match=r"This worker has no scorer 'rudeness' \(it has politeness\); install"):
        run(llama_base, pairs, tmp_path, scorers=["rudeness"])


def test_one_of_several_that_is_not_here_loses_only_its_own_scores(
    install: Callable[..., None], llama_base: Path, pairs: Path, tmp_path: Path
) -> None:
    install()
    report, _ = run(llama_base, pairs, tmp_path, generate_rows=2, scorers=["politeness", "rudeness"])
    assert report.metrics["scorer.politeness.words"] >= 0
    assert "scorer.rudeness" not in report.metrics
    assert report.metrics["scorer.rudeness_rows"] == 0
    assert report.scorer_errors["rudeness"].startswith("NoScorerError: This worker has no scorer 'rudeness'")
    assert report.conditions.metrics["scorer.rudeness"] == "none"
    assert report.conditions.failed.keys() == {"scorer.rudeness"}


def test_a_new_version_is_another_condition_and_two_distributions_are_one_too_many(
    install: Callable[..., None],
) -> None:
    install()
    assert load_scorers(["politeness"])[0].made_by == "house-scorers 1.0"
    install(version="1.1")
    assert load_scorers(["politeness"])[0].made_by == "house-scorers 1.1"
    install("other")
    with pytest.raises(PipelineError, match=r"more than once, of house-scorers 1.1, other 1.0|of other 1.0, house"):
        load_scorers(["politeness"])


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("raise SystemExit('no')", "SystemExit: no"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
    ],
)
def test_one_that_can_not_be_loaded_is_refused(install: Callable[..., None], code: str, fault: str) -> None:
    install("broken", before=f"{code}\n")
    with pytest.raises(PipelineError, match=rf"of broken 1.0 can't be loaded \(.*{fault}") as raised:
        load_scorers(["politeness"])
    assert raised.value.reason == "spec"


def scores(*made: Any) -> TextScores:
    """What a scorer adds that returns, or raises, one of these for each answer."""
    answers = [str(number) for number in range(len(made))]

    def score(prediction: str, references: list[str], row: dict[str, Any]) -> Any:
        row.clear()
        references.clear()
        found = made[int(prediction)]
        if isinstance(found, BaseException):
            raise found
        return found

    found = TextScores({"rouge_l": 0.5}, [{"rouge_l": 0.5} for _ in answers], {})
    references, rows = [["four"] for _ in answers], [{"prompt": "p"} for _ in answers]
    add_scores(found, Scorer("mine", "dist 1", score), answers, references, rows)
    assert references == [["four"]] * len(answers)
    assert rows == [{"prompt": "p"}] * len(answers)
    return found


def test_rows_that_it_fails_on_are_counted_and_the_others_have_their_scores(
    capfd: pytest.CaptureFixture[str],
) -> None:
    bad = [
        ValueError("no"),
        SystemExit(1),
        KeyboardInterrupt(),
        None,
        "1",
        math.nan,
        math.inf,
        1e300,
        [1.0],
        {},
        {"A": 1},
        {1: 1},
        {"a": 1, "a_rows": 1},
        {"a": ""},
    ]
    found = scores(1, *bad, np.float32(0.5), True)
    assert found.metrics == {"rouge_l": 0.5, "scorer.mine": pytest.approx(2.5 / 3)}
    assert found.failed == {"scorer.mine": list(range(1, len(bad) + 1))}
    assert [row.get("scorer.mine") for row in found.rows] == [1.0, *[None] * len(bad), 0.5, 1.0]
    assert all(row["rouge_l"] == 0.5 for row in found.rows)
    assert found.errors == {"mine": "ValueError: no"}
    # The log has the first, and not each of a million.
    assert capfd.readouterr().err.count("Traceback") == 1


def test_more_scores_than_a_row_has_are_those_of_the_last_scorers() -> None:
    """Else no row could be written, after everything had been computed."""
    found = TextScores({"rouge_l": 0.5}, [{"rouge_l": 0.5}], {})
    for number in range(11):
        keys = {f"key{key}": 1.0 for key in range(20)}
        add_scores(found, Scorer(f"s{number}", "dist 1", lambda *_, keys=keys: keys), ["a"], [["b"]], [{}])
    assert len(RowScore(row=0, scores=found.rows[0]).scores) == 1 + 9 * 20
    assert set(found.failed) == {"scorer.s9", "scorer.s10"}
    assert found.errors["s9"] == "ValueError: with those of the other scorers these are more than 200 scores"


def test_numbers_of_libraries_are_numbers() -> None:
    given = [np.bool_(True), np.equal(1, 2), np.array(0.5), torch.tensor(0.25), torch.tensor(True), Decimal("0.75")]
    found = scores(*given)
    assert [row["scorer.mine"] for row in found.rows] == [1.0, 0.0, 0.5, 0.25, 1.0, 0.75]
    none = scores(1, np.array([1.0, 0.0]), torch.tensor(math.nan), Decimal("nan"), Decimal("snan"), np.str_("1"))
    assert none.failed == {"scorer.mine": [1, 2, 3, 4, 5]}


class MuteError(Exception):
    """An error that can't be said."""

    def __str__(self) -> str:
        raise RuntimeError


class EndingError(Exception):
    """An error that ends the process where it is said."""

    def __str__(self) -> str:
        sys.exit(3)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\n  first\x1b[2J\0 line\nsecond"), "ValueError: first [2J  line"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 187}…"),
        (KeyError(), "KeyError"),
        (MuteError(), "MuteError"),
        (EndingError(), "EndingError"),
        (None, "TypeError: NoneType is not a number"),
    ],
)
def test_the_first_error_is_said_in_a_line(error: Any, said: str) -> None:
    assert scores(1, error, ZeroDivisionError()).errors == {"mine": said}


def test_a_scorer_gets_the_references_and_the_fields_of_the_same_row(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_own(prediction: str, references: list[str], row: dict[str, Any]) -> float:
        return float(references == [row["completion"]])

    monkeypatch.setattr(scorers, "load_scorers", lambda names: [Scorer("mine", "dist 1", is_own)])
    report, _ = run(llama_base, pairs, tmp_path, scorers=["mine"], generate_rows=3)
    assert report.metrics["scorer.mine"] == 1.0


def test_the_report_has_the_first_error_and_no_text_of_rows_that_keep_none(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prediction: str, references: list[str], row: dict[str, Any]) -> float:
        raise ValueError(f"asked {row['prompt']}")

    monkeypatch.setattr(scorers, "load_scorers", lambda names: [Scorer("mine", "dist 1", fail)])
    asked: dict[str, Any] = {"scorers": ["mine"], "generate_rows": 2}
    prompt = json.loads(pairs.read_text().splitlines()[0])["prompt"]
    report, _ = run(llama_base, pairs, tmp_path, **asked)
    assert report.scorer_errors == {"mine": f"ValueError: asked {prompt}".strip()}
    silent, _ = run(llama_base, pairs, tmp_path, keep_samples=0, **asked)
    assert silent.scorer_errors == {"mine": "ValueError"}


def test_a_worker_says_which_it_has_that_jobs_may_ask_for(install: Callable[..., None]) -> None:
    install()
    announced_scorers.cache_clear()
    try:
        better = {"politeness.please": "more", "politeness.words": "less"}
        assert announced_scorers() == [
            ScorerInfo(name="politeness", distribution="house-scorers", version="1.0", better=better)
        ]
        announced_scorers.cache_clear()
        # Nobody can tell which of two is meant.
        install("other")
        assert announced_scorers() == []
    finally:
        announced_scorers.cache_clear()


def test_a_worker_with_more_than_can_be_said_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # A part of them would keep all jobs away that ask for the rest.
    dist = SimpleNamespace(name="house-scorers", version="1.0")
    entries = [SimpleNamespace(name=f"scorer{number}", dist=dist) for number in range(MOST_SCORERS + 1)]
    monkeypatch.setattr(
        "workers.installed_scorers.entry_points", lambda group: entries if group == SCORERS_GROUP else []
    )
    announced_scorers.cache_clear()
    try:
        assert announced_scorers() is None
        announced_scorers.cache_clear()
        entries.pop()
        assert len(announced_scorers() or ()) == MOST_SCORERS
    finally:
        announced_scorers.cache_clear()


def test_a_direction_counts_only_of_the_distribution_that_has_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    house, other = SimpleNamespace(name="house", version="1"), SimpleNamespace(name="other", version="1")
    many = [(f"polite.k{number:02d}", "less", house) for number in range(30)]
    groups = {
        SCORERS_GROUP: [("polite", "house:polite", house), ("long", "house:long", house)],
        DIRECTIONS_GROUP: [
            ("long", "more", other),
            ("long.words", "sideways", house),
            ("politer", "more", house),
            *many,
        ],
    }
    monkeypatch.setattr(
        "workers.installed_scorers.entry_points",
        lambda group: [SimpleNamespace(name=name, value=value, dist=dist) for name, value, dist in groups[group]],
    )
    announced_scorers.cache_clear()
    try:
        long, polite = announced_scorers() or ()
        assert (long.better, set(polite.better.values()), len(polite.better)) == ({}, {"less"}, MOST_DIRECTIONS)
    finally:
        announced_scorers.cache_clear()


def test_a_dict_has_a_score_for_each_key() -> None:
    found = scores({"a": 1, "b": 2}, {"a": 3}, ValueError())
    assert found.metrics == {"rouge_l": 0.5, "scorer.mine.a": 2.0, "scorer.mine.b": 2.0}
    assert found.failed == {"scorer.mine.a": [2], "scorer.mine.b": [1, 2]}
    many = scores(*({f"key{number}": 1} for number in range(30)))
    assert len(many.metrics) == 21
    assert many.failed["scorer.mine.key0"] == list(range(1, 30))


def test_one_that_always_fails_has_no_score_and_all_rows_are_counted() -> None:
    found = scores(ValueError(), ValueError())
    assert found.metrics == {"rouge_l": 0.5}
    assert found.failed == {"scorer.mine": [0, 1]}


def test_the_worker_looks_for_them_without_importing_any(install: Callable[..., None]) -> None:
    install("broken", before="raise SystemExit('imported')\n")
    assert [entry.name for entry in installed_scorers(["politeness"])] == ["politeness"]
    assert installed_scorers([]) == []


def test_a_name_like_that_of_a_count_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(
        ValueError, match=r"long_rows ends with _rows, as counts of rows do; give the scorer another name"
    ):
        EvaluationSpec(scorers=["long_rows"])
