"""What rows say to limits: of a version alone, beside others, and by group; apart as in this process."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.traced import traced

from registry.errors import Conflict, Invalid, NotFound
from registry.rows.comparing.orders import RowsOf
from registry.rows.service import RowReading
from sdk.statistics.gates import ScoreLimit

HERE = RowReading(apart=False)
#: How much worse than the other the judged version is allowed to be.
BESIDE = ScoreLimit("not_worse_than", 0.2)
_MIB = 1024 * 1024


@pytest.fixture(scope="module")
def apart() -> Iterator[RowReading]:
    with_child = RowReading(apart=True)
    yield with_child
    with_child.close()


def written(path: Path, rows: int, score: Callable[[int], float], *, first: int = 0, name: str = "acc") -> RowsOf:
    """Write rows of which each weighs its number's last digit and one more in tokens."""
    lines = []
    for row in range(first, rows):
        tokens, value = row % 10 + 1, score(row)
        line = {"row": row, "tokens": tokens, "loss_sum": value * tokens, "scores": {name: value}}
        lines.append(json.dumps(line))
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode(), 1))
    return f"a@{path.name}", path.name, str(path)


def dataset(path: Path, rows: int, values: Callable[[int], dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(values(row)) + "\n" for row in range(rows)))
    return path


def wave(row: int) -> float:
    return (row * 37 % 101) / 101


def test_a_higher_score_is_better_and_a_higher_loss_is_worse(tmp_path: Path) -> None:
    for metric, lower_is_better in (("acc", False), ("loss", True)):
        targets = [
            written(tmp_path / f"{name}{metric}", 100, score)
            for name, score in (("a", lambda row: wave(row) + wave(row + 7) + 0.1), ("b", wave))
        ]
        up, down = (
            HERE.judge(given, metric, [BESIDE], alpha=0.05, lower_is_better=lower_is_better)[0]
            for given in (targets, targets[::-1])
        )
        better, worse = (down, up) if lower_is_better else (up, down)
        assert (better.outcome, worse.outcome) == ("passed", "failed")
        assert better.whole.value == pytest.approx(-worse.whole.value)
        assert better.whole.value < better.whole.near < 0 < worse.whole.value < worse.whole.near


def test_each_limit_is_asked_of_its_own_target(tmp_path: Path) -> None:
    targets = [written(tmp_path / str(by), 200, lambda row, by=by: float(row % 10 < by)) for by in (6, 6, 9)]
    limits = [
        ScoreLimit("at_least", 0.5),
        ScoreLimit("at_least", 0.6),
        ScoreLimit("at_least", 0.6, point=True),
        ScoreLimit("at_most", 0.7),
        ScoreLimit("not_worse_than", 0.1, target=1),
        ScoreLimit("not_worse_than", 0.1, target=2),
    ]
    found = HERE.judge(targets, "acc", limits, alpha=0.05, lower_is_better=False)
    assert [one.outcome for one in found] == ["passed", "failed", "passed", "passed", "passed", "failed"]
    assert [one.whole.method for one in found] == ["exact", "exact", "point", "exact", "exact", "exact"]
    assert [one.whole.value for one in found] == pytest.approx([0.6, 0.6, 0.6, 0.6, 0.0, 0.3])
    # A smaller alpha asks for more.
    strict = HERE.judge(targets, "acc", limits, alpha=1e-4, lower_is_better=False)
    assert strict[0].outcome == "failed"
    assert strict[0].whole.near < found[0].whole.near


def test_the_worst_group_decides_and_small_ones_are_named(tmp_path: Path) -> None:
    def good(row: int) -> float:
        return wave(row) + wave(row + 3)

    def bad_in_german(row: int) -> float:
        return good(row) - (0.8 * wave(row + 5) if row % 4 == 1 else 0.0)

    targets = [written(tmp_path / "new", 200, bad_in_german), written(tmp_path / "old", 200, good)]
    names = {1: "de", 3: "fr"}
    rows = dataset(
        tmp_path / "rows", 200, lambda row: {"lang": "la" if row < 10 else names.get(row % 4, "en"), "talk": row // 2}
    )
    limits = [BESIDE, ScoreLimit("at_least", 0.5)]
    found, floor = HERE.judge(targets, "acc", limits, alpha=0.05, lower_is_better=False, dataset=rows, by="lang")
    assert found.slices is not None
    assert (found.slices.value, found.slices.judged, found.slices.few) == ("de", 3, ["la"])
    assert (found.whole.outcome, found.outcome) == ("passed", "failed")
    assert found.slices.worst.alpha == pytest.approx(0.05 / 3)
    assert floor.slices.value == "de"
    # Two rows each talk: too few talks are German.
    talks = HERE.judge(
        targets, "acc", [BESIDE], alpha=0.05, lower_is_better=False, dataset=rows, by="lang", cluster="talk"
    )[0]
    assert talks.whole.clusters == 100
    assert talks.slices.judged == 3


def test_a_group_has_no_bounds_that_other_rows_show_not_to_be_there(tmp_path: Path) -> None:
    # Half of the rows have 1 alone, and the rest tells that a score may be far below 0.
    targets = [written(tmp_path / "new", 200, lambda row: 1.0 if row % 2 else wave(row) - 5, name="scorer.tone")]
    rows = dataset(tmp_path / "rows", 200, lambda row: {"lang": "de" if row % 2 else "en"})
    limits = [ScoreLimit("at_least", -9.0)]
    found = HERE.judge(targets, "scorer.tone", limits, alpha=0.05, lower_is_better=False, dataset=rows, by="lang")[0]
    assert (found.whole.outcome, found.slices.value, found.slices.worst.outcome) == ("passed", "de", "unknown")
    assert found.slices.worst.why.startswith("only 0 of 100 rows score otherwise than most")


def test_rows_of_one_group_count_once(tmp_path: Path) -> None:
    targets = [
        written(tmp_path / name, 200, lambda row, by=by: wave(row // 5) + by * (wave(row // 5 + 9) - 0.4))
        for name, by in (("new", 1), ("old", 0))
    ]
    rows = dataset(tmp_path / "rows", 200, lambda row: {"talk": row // 5, "day": row // 20})
    alone, talks, days = (
        HERE.judge(targets, "acc", [BESIDE], alpha=0.05, lower_is_better=False, **given)[0].whole
        for given in ({}, {"dataset": rows, "cluster": "talk"}, {"dataset": rows, "cluster": "day"})
    )
    assert (alone.clusters, talks.clusters) == (200, 40)
    assert talks.near - talks.value > 1.9 * (alone.near - alone.value)
    assert (days.outcome, days.why) == (
        "unknown",
        "10 groups of rows that belong together are too few of at least 20; take a dataset with more",
    )


def test_rows_that_only_the_other_has_make_it_unknown(tmp_path: Path) -> None:
    whole, part = (written(tmp_path / str(first), 100, wave, first=first) for first in (0, 2))
    found = HERE.judge([part, whole], "acc", [BESIDE], alpha=0.05, lower_is_better=False)[0]
    assert found.outcome == "unknown"
    assert "2 rows have a score of a@0 alone" in found.whole.why
    # What the other lacks says nothing against this version.
    assert HERE.judge([whole, part], "acc", [BESIDE], alpha=0.05, lower_is_better=False)[0].outcome == "passed"


def test_what_rows_do_not_have_is_refused(tmp_path: Path) -> None:
    targets = [written(tmp_path / "new", 40, wave), written(tmp_path / "late", 90, wave, first=50)]
    with pytest.raises(Invalid, match="have no 'rouge_l'"):
        HERE.judge(targets, "rouge_l", [BESIDE], alpha=0.05, lower_is_better=False)
    with pytest.raises(NotFound, match="no row has a acc of all of them"):
        HERE.judge(targets, "acc", [BESIDE], alpha=0.05, lower_is_better=False)
    rows = dataset(tmp_path / "rows", 40, lambda row: {"lang": row})
    with pytest.raises(Invalid, match="name another column"):
        HERE.judge(
            targets[:1], "acc", [ScoreLimit("at_least", 0.1)], alpha=0.05, lower_is_better=False, dataset=rows, by="b"
        )
    other = [targets[0], written(tmp_path / "cut", 40, wave)]
    Path(other[1][2]).write_bytes(gzip.compress(b'{"row":0,"tokens":7,"loss_sum":1.0,"scores":{}}\n'))
    with pytest.raises(Conflict, match="which were truncated differently"):
        HERE.judge(other, "loss", [BESIDE], alpha=0.05, lower_is_better=True)


def test_many_rows_are_judged_apart_with_the_same_answer(apart: RowReading, tmp_path: Path) -> None:
    targets = [
        written(tmp_path / name, 4_000, lambda row, by=by: wave(row) + by * wave(row + 3))
        for name, by in (("new", 0.1), ("old", 0))
    ]
    rows = dataset(tmp_path / "rows", 4_000, lambda row: {"lang": "de" if row % 4 else "en", "talk": row // 2})
    given = {"alpha": 1e-6, "lower_is_better": True, "dataset": rows, "by": "lang", "cluster": "talk"}
    limits = [ScoreLimit("not_worse_than", 0.1), ScoreLimit("at_most", 0.5)]
    truth = HERE.judge(targets, "loss", limits, **given)
    with traced() as peak_bytes:
        assert apart.judge(targets, "loss", limits, **given) == truth
        assert peak_bytes() < _MIB / 2
    assert apart.pid is not None
    assert [one.outcome for one in truth] == ["passed", "failed"]
    assert truth[0].whole.clusters == 2_000
