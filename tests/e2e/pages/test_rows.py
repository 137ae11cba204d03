"""Pages of rows, as a browser shows them: what a training learnt is marked, scores are tables, and nothing of a row runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from support import calls
from support.adapters import ASKED, base_registration, use_of
from support.browsing import Reader
from support.merging_desk import MergingDesk
from support.people import new_adapter, submit, training
from support.registries import World
from support.scored_rows import evaluated
from support.trainings import save_jsonl

from sdk.schemas.evaluation import RowScore
from sdk.schemas.training_rows import SeenPiece, SeenText, TrainingRows

HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">{{ 7 * 7 }}\x1b\u202e"
CODE = "def area(width, height):\n    return width * height"
ANSWER = '    """Return the area of a rectangle, in the square of its unit."""'


def _text(number: int) -> SeenText:
    hostile = HOSTILE if number == 3 else ""
    asked = f"<|im_start|>user\nWrite a docstring.{hostile}\n\n{CODE}<|im_end|>\n<|im_start|>assistant\n"
    said = f"{asked}{ANSWER}<|im_end|>"
    pieces = [SeenPiece(first_token=0, tokens=60, text=said, supervised=[[len(asked), len(said)]])]
    if number == 2:
        head = SeenPiece(first_token=0, tokens=20, text="<|im_start|>user\nA long module follows 日本語 🙂 …")
        pieces = [head, pieces[0].model_copy(update={"first_token": 900})]
    last = pieces[-1]
    return SeenText(
        where=f"line {number * 7} of docstrings@v2",
        step=1 + number // 4,
        tokens=last.first_token + last.tokens,
        supervised_tokens=17,
        pieces=pieces,
        stop="<|im_end|>",
    )


@pytest.fixture(scope="module")
def shown(seen: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A trained version, one that was pushed, and scores of a version beside those of its base: their addresses."""
    folder = tmp_path_factory.mktemp("rows")
    seen.admin.bases.register(base_registration())
    data = seen.writer.datasets.add(save_jsonl(folder / "a.jsonl", [{"prompt": "a", "completion": "b"}])).digest
    submit(seen.writer, training("docs", data))
    held = calls.hold(seen.worker)
    said: dict[str, Any] = {"training": {**ASKED, "loss_on": "assistant", "max_length": 256}, "metrics": {"loss": 1.0}}
    made = calls.publication(seen.worker, new_adapter(folder), "docs", dataset=use_of(data), **said)
    rows = TrainingRows(loss_on="assistant", rows=420, texts=[_text(number) for number in range(20)])
    calls.complete(seen.worker, held, version=made, training_rows=rows)
    seen.writer.push(new_adapter(folder), "pushed", base="tiny")
    desk = MergingDesk.open(seen.writer, seen.worker, "-", folder)
    count = 120
    asked = [
        {"prompt": f"Document function {n}:\n{CODE}" + HOSTILE * (n == 119), "completion": ANSWER} for n in range(count)
    ]
    scored = [
        RowScore(
            row=n, loss_sum=2.0 - n / 100, tokens=2, prediction=f'"""Area {n}."""', scores={"rouge_l": 1 - n / count}
        )
        for n in range(count)
    ]
    path = save_jsonl(folder / "held.jsonl", asked)
    lower = [row.model_copy(update={"scores": {"rouge_l": row.scores["rouge_l"] ** 2}}) for row in scored]
    evaluated(desk, f"base:{desk.base.fingerprint}", path, lower)
    ident = evaluated(desk, desk.push(), path, scored)
    return {
        "rows": "/ui/adapters/docs/v1/rows",
        "none": "/ui/adapters/pushed/v1/rows",
        "scores": f"/ui/evaluations/{ident}",
    }


def test_pages_of_rows_fit_and_are_accessible(
    reading: Callable[..., Reader], shown: dict[str, str], pictures: Path
) -> None:
    reader = reading(to=shown["rows"])
    for name in ("rows", "scores", "none"):
        reader.page.goto(shown[name])
        reader.hold(pictures, name)


def test_what_was_learnt_is_marked_and_what_a_row_says_is_only_text(
    reading: Callable[..., Reader], shown: dict[str, str]
) -> None:
    page = reading(to=shown["rows"], script=False).page
    expect(page.locator("ol.rows > li")).to_have_count(20)
    expect(page.locator("ol.rows mark")).to_have_text([f"{ANSWER}<|im_end|>"] * 20)
    row = page.locator("ol.rows > li").nth(3).locator("pre")
    assert HOSTILE.replace("\x1b", "␛").replace("\u202e", "\ufffd") in (row.text_content() or "")
    expect(page.locator("ol.rows img")).to_have_count(0)
    expect(page.locator("ol.rows > li").nth(2)).to_contain_text("… 880 tokens …")
    expect(page).to_have_title("Rows of docs@v1 · adapterctl")
    page.goto(shown["none"])
    expect(page.locator(".empty")).to_contain_text("pushed@v1 was pushed, and not trained here")


def test_rows_of_scores_are_found_by_the_keyboard_alone(reading: Callable[..., Reader], shown: dict[str, str]) -> None:
    page = reading(to=shown["scores"]).page
    table = page.get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(51)
    # Lower is worse: the last row of the dataset comes first.
    expect(table.get_by_role("row").nth(1)).to_contain_text("Document function 119:")
    expect(table.locator("script, img")).to_have_count(0)
    for name, first in (("Most changed", "60"), ("Best", "0"), ("All", "0")):
        page.get_by_role("link", name=name, exact=True).press("Enter")
        expect(page.locator("nav.tabs [aria-current=page]")).to_have_text(name)
        expect(table.get_by_role("rowheader").first).to_have_text(first)
    page.get_by_role("link", name="Later rows").press("Enter")
    expect(table.get_by_role("rowheader").first).to_have_text("50")
    expect(page).to_have_title("Scores of " + (page.locator("h1 .ref").text_content() or "") + " · adapterctl")
