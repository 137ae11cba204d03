"""A sweep in words: its table within 80 columns, what is said of it, and what a script reads."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from support.sweep_views import sweep_view

from sdk.cli.commands.sweep.watch import print_result, shown_members, summary_of
from sdk.cli.support.sweep_pages import document_of, failure_of, member_table, said_of, setting_table, settings_said
from sdk.errors import JobCancelled, JobFailed
from sdk.nouns.sweeps import Sweep, winner_ref
from sdk.schemas.sweep_axes import Range
from sdk.schemas.sweeps import SweepState, SweepView
from sdk.submitting.sweep_watch import MemberStanding, ProgressLines, SweepProgress

RANKS = (1, 2, 4, 8, 16)


def ranks(**known: Any) -> SweepView:
    return sweep_view([{"rank": rank} for rank in RANKS], [1.5, 1.42, 1.36, 1.365, 1.40], **known)


def with_members(view: SweepView, **changes: Any) -> SweepView:
    """The sweep with its first member changed."""
    first, *rest = view.members
    return view.model_copy(update={"members": [first.model_copy(update=changes), *rest]})


def test_the_table_has_a_line_for_each_setting_and_all_its_columns_in_80() -> None:
    header, *lines = setting_table(ranks(seeds=3)).splitlines()
    assert header.split() == ["RANK", "LOSS", "±", "ERROR", "WORSE", "BY", "VERDICT", "SIZE", "TIME", "MEMORY", "STEP"]
    assert max(map(len, (header, *lines))) <= 80
    assert re.fullmatch(r"4 +1\.360 ± 0\.010 +- +best +400\.0 kB +59 s +1\.0 GB +154", lines[2])
    assert re.fullmatch(r"8 +1\.365 ± 0\.010 +-0\.025…0\.035 +not told apart .*", lines[3])


def test_two_options_leave_memory_out_rather_than_a_verdict() -> None:
    settings = [{"rank": rank, "lr": lr} for rank in (1, 4) for lr in (1e-4, 3.16e-4)]
    text, said = setting_table(sweep_view(settings, [1.3, 1.2, 1.105, 1.1])).split("no room for: ")
    header, *lines = text.splitlines()
    assert said.startswith("memory")
    assert max(map(len, (header, *lines))) <= 80
    assert "MEMORY" not in header
    assert "VERDICT" in header
    assert [line.split()[:2] for line in lines] == [
        ["1", "0.0001"],
        ["1", "0.000316"],
        ["4", "0.0001"],
        ["4", "0.000316"],
    ]


def test_the_best_comes_first_where_settings_were_sampled() -> None:
    view = ranks()
    request = view.request.model_copy(update={"sample": "tpe", "trials": 5})
    lines = setting_table(view.model_copy(update={"request": request})).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["4", "8", "16", "2", "1"]


def test_scores_on_rows_that_chose_nothing_are_told_beside_the_base_s() -> None:
    view = ranks()
    assert "by which nothing was chosen" not in " ".join(said_of(view))
    assert view.verdict is not None
    tested = view.verdict.model_copy(update={"test": {"loss_base": 7.0, "loss": 1.375}, "notes": ["One seed each."]})
    said = list(said_of(view.model_copy(update={"verdict": tested})))
    assert " ".join(said[1].split()) == "On rows by which nothing was chosen, the winner has loss 1.375 (its base 7)."
    assert said[2:] == ["One seed each."]
    assert all(len(line) <= 80 for part in said for line in part.splitlines())


def test_a_member_without_a_result_is_named_with_its_reason_and_makes_the_exit_code_6() -> None:
    view = with_members(ranks(), state="failed", outcome=None, reason="out of memory\x1b[31m", metrics={})
    said = "\n".join(said_of(view))
    assert "sweep:5ea9b7d20c11/1 (rank 1) failed: out of memory?[31m" in said
    error = failure_of(view)
    assert isinstance(error, JobFailed)
    assert error.exit_code == 6
    assert "1 of 5 members" in error.message
    assert failure_of(ranks()) is None
    assert isinstance(failure_of(ranks(state=SweepState.CANCELLED)), JobCancelled)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (
            {"winner": None, "verdict": None, "message": "no member has a score"},
            "without a winner: no member has a score",
        ),
        ({"publish": "best", "message": "the name is taken"}, "/3, was made no version: the name is taken; see: "),
        ({"publish": "all"}, "/3, was made no version; see: "),
    ],
)
def test_a_sweep_without_its_winner_s_version_is_no_success(known: dict[str, Any], says: str) -> None:
    view = ranks(**known)
    error = failure_of(view)
    assert error is not None
    assert says in error.message
    assert error.exit_code == 6
    assert Sweep(view, cast(Any, None)).error is not None


def test_data_is_the_winner_s_ref_and_talk_goes_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(ranks(), "table")
    out, err = capsys.readouterr()
    assert out == "sweep:5ea9b7d20c11/3\n"
    assert "VERDICT" in err
    view = ranks()
    members = [one.model_copy(update={"ref": "sql@v3"}) if one.number == 3 else one for one in view.members]
    print_result(view.model_copy(update={"members": members}), "quiet")
    assert capsys.readouterr() == ("sql@v3\n", "")


def test_a_document_has_each_member_with_its_options_and_the_winner_by_its_ref() -> None:
    document = document_of(ranks(seeds=2))
    assert document.keys() >= {"sweep", "id", "members", "winner", "verdict"}
    assert (document["sweep"], document["winner"]) == ("sql", "sweep:5ea9b7d20c11/5")
    first = document["members"][0]
    assert first.keys() >= {"rank", "lr", "job", "ref", "state", "outcome", "metrics"}
    assert (first["rank"], first["lr"], first["ref"]) == (1, 2e-4, None)
    assert document["verdict"]["settings"][0]["outcome"] == "best"
    assert winner_ref(ranks(winner=None)) is None


def test_what_varies_is_written_as_it_may_be_given() -> None:
    view = ranks()
    axes = {**view.request.settings, "lr": Range(low=1e-4, high=1e-3, log=True, count=5)}
    request = view.request.model_copy(update={"settings": axes})
    assert settings_said(view.model_copy(update={"request": request})) == "rank 1,2,4,8,16; lr 0.0001..0.001:log[5]"
    assert "sweep:5ea9b7d20c11/5" in member_table(view)


def test_a_summary_counts_members_and_names_the_best_so_far() -> None:
    view = ranks(state=SweepState.RUNNING, most_members=10)
    standing = [MemberStanding(one, step=200, total=200, loss=one.metrics["eval_loss"]) for one in view.members]
    said = summary_of(SweepProgress(view, standing))
    assert said.startswith("5/10 members · best 1.36 (rank 4) · ")
    assert said.endswith(" left")
    scored = view.model_copy(update={"request": view.request.model_copy(update={"choose": "rouge_l"})})
    assert " · lowest held-out loss 1.36 (rank 4) · " in summary_of(SweepProgress(scored, standing))


def test_waiting_in_python_writes_a_line_whenever_something_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    view, written = ranks(state=SweepState.RUNNING), ProgressLines()
    standing = [MemberStanding(one, loss=one.metrics["eval_loss"]) for one in view.members]
    for members in (standing[:2], standing[:2], standing):
        written(SweepProgress(view, members))
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("running: 2 of 5 members have ended; the lowest held-out loss is 1.42, of member 2")
    assert last.endswith("running: 5 of 5 members have ended; the lowest held-out loss is 1.36, of member 3")


def test_time_left_counts_the_steps_of_members_that_have_not_begun() -> None:
    view = ranks(state=SweepState.RUNNING, most_members=10)
    progress = SweepProgress(view, [MemberStanding(one, step=200, total=200) for one in view.members])
    assert progress.left_s is not None
    assert progress.steps_per_s is not None
    assert progress.left_s == pytest.approx(1000 / progress.steps_per_s, rel=0.01)
    assert SweepProgress(view, [MemberStanding(one) for one in view.members]).left_s is None


def test_a_short_terminal_shows_those_at_work_before_others() -> None:
    view = ranks()
    states = ["succeeded", "succeeded", "running", "queued", "running"]
    members = [one.model_copy(update={"state": state}) for one, state in zip(view.members, states, strict=True)]
    progress = SweepProgress(view, [MemberStanding(one) for one in members])
    assert [one.member.number for one in shown_members(progress, 3)] == [2, 3, 5]
    assert len(shown_members(progress, 40)) == 5
