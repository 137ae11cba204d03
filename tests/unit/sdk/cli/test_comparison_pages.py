"""A comparison on a page: what models and datasets say stays text, and what is said fits where it is shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.cli import cli
from sdk.cli.support.comparison_pages import comparison_lines, markdown_page, statement, write_png
from sdk.errors import InvalidInput, Unavailable
from sdk.schemas.scores import ChangedRow, Compared, ComparedPair, Comparison

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></body><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "```\n# not a heading\n````html\n<b>",
    "[link](javascript:alert(1)) | cell | ![x](http://evil)",
    "\x1b[31mred\x1b[0m \u202egnp.exe \x00",
    "&lt;b&gt; &amp;",
    "| a | b |\n|---|---|\n",
)


def comparison(text: str = "said", *, refs: tuple[str, ...] = ("code-review@v1", "code-review@v2")) -> Comparison:
    pairs = [
        ComparedPair(
            a=a, b=b, difference=-0.0751, low=-0.1192, high=-0.0244, p=0.0028, p_adjusted=0.0056, test="sign-flip",
            better=b, verdict=f"{b} beats {a} on loss by 0.075 [0.024, 0.119]", detectable=0.0637, rows_needed=123_456,
        )
        for number, a in enumerate(refs)
        for b in refs[number + 1 :]
    ]  # fmt: skip
    return Comparison(
        metric="loss", lower_is_better=True, dataset="5" * 64, rows=48, by=text, groups=24, refs=list(refs),
        scores=[Compared(ref=ref, evaluation="648b719eb4c7", namespace="team", score=0.99731) for ref in refs], pairs=pairs, notes=[text],
        examples=[ChangedRow(row=7, prompt=text, reference=text, scores=[0.5] * len(refs), predictions=[text, *[None] * (len(refs) - 1)])],
    )  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_line_that_means_anything_but_its_own(text: str) -> None:
    outside, fence = [], None
    for line in markdown_page(comparison(text)).splitlines():
        if fence is None and line.startswith("```"):
            fence = line.removesuffix("text")
        elif fence is not None:
            fence = None if line == fence else fence
        else:
            outside.append(line)
    assert fence is None
    plain = [line.replace("\\", "") for line in outside]
    assert [line for line in plain if line.startswith("#")] == ["# code-review@v1, code-review@v2", "## Row 7"]
    for line in outside:
        assert "<" not in line.replace("\\<", "")
        assert "](" not in line
        assert all(character.isprintable() for character in line)
    assert len([line for line in outside if line.startswith("|")]) == 7


@pytest.mark.parametrize("text", [*HOSTILE, "long " * 200])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_terminal_gets_lines_of_80_columns(text: str, count: int) -> None:
    refs = tuple(f"a-team/with-a-long-name-of-an-adapter@v{number}" for number in range(count))
    lines = "\n".join(comparison_lines(comparison(text, refs=refs))).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert sum("123456" in line for line in lines) == count * (count - 1) // 2


def test_a_verdict_that_names_nobody_says_of_which_pair_it_is() -> None:
    found = comparison(refs=("a@v1", "a@v2", "b@v1"))
    none = found.pairs[1].model_copy(update={"better": None, "verdict": "no difference shown"})
    lines = list(comparison_lines(found.model_copy(update={"pairs": [found.pairs[0], none]})))
    assert "a@v1 and b@v1: no difference shown" in lines
    lines = list(comparison_lines(found.model_copy(update={"pairs": [none]})))
    assert "no difference shown" in lines


def test_a_picture_is_a_png_whatever_the_names_are(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for number, text in enumerate([*HOSTILE, "$\\frac{$"]):
        path = tmp_path / f"{number}.png"
        write_png(comparison(text, refs=("base:a$b", "base:$\\frac{$", "a@v1")), path)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidInput, match=r"can't be written .* choose another path"):
        write_png(comparison(), tmp_path / "missing" / "a.png")


def test_a_picture_without_matplotlib_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(cli, ["compare", "a@v1", "a@v2", "--png", "a.png"], standalone_mode=False)
    assert isinstance(result.exception, Unavailable)
    assert "pip install 'adapterctl[plot]', or take --format html" in result.exception.message


def test_a_comparison_is_headed_by_the_name_of_its_rows_everywhere() -> None:
    found = comparison().model_copy(update={"dataset_name": "heldout@v2"})
    for shown in ("\n".join(comparison_lines(found)), markdown_page(found).replace("\\", ""), found._repr_html_()):
        assert "loss on heldout@v2: 48 rows" in shown
        assert "5" * 12 not in shown


def test_versions_that_are_not_told_apart_are_named_as_in_other_verdicts() -> None:
    pair = comparison().pairs[0].model_copy(update={"better": None, "verdict": "no difference shown"})
    assert statement(pair, alone=False) == "v1 and v2: no difference shown"


def test_a_table_that_leaves_columns_out_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.cli.support.output.screen_width", lambda: 40)
    text = " ".join("\n".join(comparison_lines(comparison())).split())
    assert "no room for: p, can show, rows needed; a wider terminal, a pipe or --format json has all" in text
