"""What stays of a training when it has ended: five lines, of which that on held-out rows says if it got worse."""

from __future__ import annotations

import io

import pytest
from support.series import series_of, usual

from sdk.cli.support.curves import curve_lines
from sdk.cli.support.endings import ending_lines
from sdk.plotting.curves import Curve

METRICS = {
    "first_loss": 3.25,
    "last_loss": 1.5,
    "loss": 1.4,
    "eval_loss_base": 3.0,
    "eval_loss": 1.75,
    "train_s": 7_500.0,
    "tokens_per_s": 1234.4,
    "peak_memory_bytes": 2.5e9,
}
CURVE = Curve("3f1c2a9b7d20 sql@v3", usual(400), best_step=160)
KEPT = Curve("3f1c2a9b7d20 sql@v3", usual(400), best_step=160, kept=True)
#: A last look that is worse than the best one, and surely so.
WORSE = {"eval_loss_best": 1.5, "eval_loss_end": 1.75, "eval_margin_low": 0.1}


def test_five_lines_say_how_a_training_ended() -> None:
    assert ending_lines("sql@v3", METRICS, CURVE) == [
        "loss      3.25 → 1.5 in 400 steps",
        "held-out  3 → 1.75",
        "time      2 h, 1,234 tokens/s",
        "memory    2.5 GB at most",
        "next      adapterctl show sql@v3",
    ]


@pytest.mark.parametrize(
    ("more", "curve", "said", "advice"),
    [
        (WORSE, CURVE, "3 → 1.5 (step 160) → 1.75: worse since then", "plot"),
        (WORSE, None, "3 → 1.5 (best) → 1.75: worse since then", "plot"),
        # Too few rows, or too small a difference, to say so.
        ({**WORSE, "eval_margin_low": -0.1}, CURVE, "3 → 1.5 (step 160) → 1.75", "show"),
        ({**WORSE, "eval_loss": 1.5}, KEPT, "3 → 1.5 (step 160, kept); at the end 1.75, which is worse", "show"),
        ({"eval_loss_best": 1.75, "eval_loss_end": 1.75}, KEPT, "3 → 1.75 (step 160, kept)", "show"),
        ({"eval_loss": 3.5}, CURVE, "3 → 3.5: worse than before the training", "plot"),
        ({"eval_loss": 3.5, **WORSE, "eval_loss_end": 3.5}, CURVE, "3 → 1.5 (step 160) → 3.5: worse than before the training", "plot"),
        ({"eval_loss_parent": 2.0}, None, "2 → 1.75", "show"),
        ({"eval_preference_accuracy": 0.9, "eval_chosen_loss": 1.0, "eval_chosen_loss_base": 2.5}, None,
         "3 → 1.75; chosen answer preferred in 90%, its loss 2.5 → 1", "show"),
    ],
)  # fmt: skip
def test_held_out_rows_before_best_and_after(
    more: dict[str, float], curve: Curve | None, said: str, advice: str
) -> None:
    _, held_out, *_, following = ending_lines("sql@v3", {**METRICS, **more}, curve)
    assert held_out == f"held-out  {said}"
    assert following.startswith(f"next      adapterctl {advice} sql@v3")


def test_a_training_without_held_out_rows_is_told_how_to_have_some() -> None:
    lines = ending_lines("sql@v3", {"loss": 1.5}, Curve("x", series_of(loss=[(1, 2.5)])))
    assert lines == [
        "loss      2.5 → 1.5 in 1 step",
        "held-out  no rows; give some: --eval-data FILE",
        "next      adapterctl eval sql@v3 --data FILE, with unseen rows",
    ]


def test_a_record_of_another_release_is_no_reason_to_fail() -> None:
    assert ending_lines("sql@v3", {}, None)[0] == "loss      unknown"


class _Screen(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "term", "braille", "coloured"),
    [("utf-8", "xterm", True, True), ("utf-8", "dumb", False, False), ("latin-1", "xterm", False, True), ("utf-8", "", False, False)],
)  # fmt: skip
def test_what_a_terminal_can_not_show_is_not_sent_to_it(
    monkeypatch: pytest.MonkeyPatch, encoding: str, term: str, braille: bool, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", term) if term else monkeypatch.delenv("TERM", raising=False)
    text = "\n".join(curve_lines(CURVE, _Screen(io.BytesIO(), encoding=encoding)))
    assert any("\u2801" <= c <= "\u28ff" for c in text) == braille
    assert ("\x1b[" in text) == coloured
    assert text.encode(encoding)


def test_a_file_and_a_narrow_terminal_get_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert curve_lines(CURVE, io.StringIO()) == []
    screen = _Screen(io.BytesIO(), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "39")
    assert curve_lines(CURVE, screen) == []
    monkeypatch.setenv("COLUMNS", "60")
    assert all(len(line) <= 60 + 10 * line.count("\x1b") for line in curve_lines(CURVE, screen))
    assert curve_lines(None, screen) == []


def test_what_is_advised_is_the_next_command() -> None:
    again = "adapterctl jobs retry 3f1c2a9b7d20 --advice"
    assert ending_lines("sql@v3", METRICS, CURVE, again=again)[-1] == f"next      {again}"
