"""A training's curve at each door: on the terminal where it ends, in `jobs show` and `jobs watch`, as SVG and PNG, and in Python."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from support import tiny
from support.command_line import CommandLine
from support.svg_curves import panels, texts

from sdk.client import Client
from sdk.plotting.plot import Plot

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

OPTIONS = ["--max-steps", "6", "--batch-size", "2", "--grad-accum", "1", "--max-length", "64"]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FIVE = r"loss {6}\d.* → .* in 6 steps\nheld-out  \d.* → .*\ntime .* tokens/s.*\nmemory .* at most.*\nnext {6}adapterctl \w+ drawn@v1"


class Home(CommandLine):
    """An embedded registry with one training, which somebody at a terminal waited for; what was shown, and its job."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, cwd=folder)
        base, rows = tiny.save_llama(folder / "tiny-llama"), tiny.write_rows(folder / "rows.jsonl")
        command = ["train", "drawn", "--base", str(base), "--data", str(rows), "--eval-data", str(rows), *OPTIONS]
        status, _, self.shown = self.at_a_terminal(*command, within_s=300, TERM="xterm-256color")
        assert status == 0, self.shown
        found = re.search(r"job (\w+) trains drawn", self.shown)
        assert found is not None
        self.job = found[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("curves"))


def lines_of(shown: str) -> list[str]:
    """What was shown, without colours and what moves the cursor."""
    return [_ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", shown)]


def test_a_training_leaves_its_curve_and_five_lines(home: Home) -> None:
    lines = lines_of(home.shown)
    assert re.search(_FIVE, "\n".join(lines))
    curve = [line for line in lines if re.match(r" *[\d.]* │", line)]
    assert len(curve) == 8
    assert re.search("[\u2801-\u28ff]", "".join(curve))
    assert all(len(line) <= 80 for line in curve)
    assert "\x1b[34m" in home.shown


def test_a_dumb_terminal_gets_ascii_and_no_colours(home: Home) -> None:
    status, _, shown = home.at_a_terminal("jobs", "watch", home.job)
    assert status == 0
    assert re.search(_FIVE, "\n".join(lines_of(shown)))
    curve = [line for line in lines_of(shown) if re.match(r" *[\d.]* \|", line)]
    assert len(curve) == 8
    assert "*" in "".join(curve)
    assert "\x1b[3" not in shown


def test_where_there_is_no_terminal_nothing_is_drawn(home: Home) -> None:
    watched = home.run("jobs", "watch", home.job)
    assert re.search(_FIVE, watched.stderr)
    shown = home.ok("jobs", "show", home.job)
    assert not re.search("[│|\u2801-\u28ff]", watched.stderr + shown)


def test_a_job_is_shown_with_its_curve_on_a_terminal(home: Home) -> None:
    status, _, shown = home.at_a_terminal("jobs", "show", home.job, TERM="xterm", NO_COLOR="1")
    assert status == 0
    assert sum(" │" in line for line in lines_of(shown)) == 8
    # Where there is no room for a curve, the rest is shown all the same.
    assert " │" not in home.at_a_terminal("jobs", "show", home.job, columns=30)[2]


def test_a_picture_shows_what_was_measured(home: Home) -> None:
    assert home.ok("plot", home.job, "-o", "curve.svg") == "curve.svg"
    with closing(Client(home.url)) as client:
        series = client.jobs.series(home.job)
        drawn = client.plot(home.job)
    assert (home.folder / "curve.svg").read_text() == drawn.svg
    assert isinstance(drawn, Plot)
    loss, rate, norm = panels(drawn.svg)
    for panel, name in ((loss, "loss"), (rate, "lr"), (norm, "grad_norm")):
        found = series.series[name]
        assert found.step == [1, 2, 3, 4, 5, 6]
        assert all(
            panel.reaches("band", panel.x(at), panel.y(value)) for at, value in zip(found.step, found.last, strict=True)
        )
    assert loss.title == "loss, nats per token"


def test_the_path_is_printed_as_a_script_asked_for_it(home: Home) -> None:
    written = home.json("plot", home.job, "-o", str(home.folder / "curve.png"))
    assert written == {"path": str(home.folder / "curve.png"), "of": [home.job]}
    assert (home.folder / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [(["JOB", "-o", "curve.gif"], 2, "curve.gif names no format; end it with .svg or .png"),
     (["JOB", "-o", "tiny-llama"], 2, "tiny-llama names no format"),
     (["JOB", "JOB", "-o", "curve.svg"], 2, "is given twice; name each job or version once"),
     (["none@v1", "-o", "curve.svg"], 3, "there is no adapter 'none'"),
     (["000000000000", "-o", "curve.svg"], 3, "there is no job '000000000000'"),
     (["Bad Name", "-o", "curve.svg"], 2, "is not an adapter name")],
)  # fmt: skip
def test_what_can_not_be_drawn_is_refused_with_what_to_do(home: Home, args: list[str], status: int, said: str) -> None:
    error = home.refused(status, "plot", *(home.job if arg == "JOB" else arg for arg in args), "--format", "json")
    assert said in json.loads(error)["error"]["message"]


def test_a_version_has_the_curve_of_the_job_that_made_it(home: Home) -> None:
    home.ok("plot", "drawn", home.job, "-o", "both.svg")
    with closing(Client(home.url)) as client:
        of_job, of_version = (client.plot(one).curves[0] for one in (home.job, "drawn@v1"))
    assert of_version.series.series["loss"] == of_job.series.series["loss"]
    assert (of_version.name, of_job.name) == ("drawn@v1", f"{home.job} drawn@v1")
    drawn = (home.folder / "both.svg").read_text()
    assert {"drawn@v1", f"{home.job} drawn@v1"} <= set(texts(drawn))
    assert len(panels(drawn)[0].paths["mean"]) == 2
