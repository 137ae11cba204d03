from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support import processes

EXAMPLE = Path(__file__).parents[3] / "examples" / "docstrings"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"docstrings_{name}", EXAMPLE / f"{name}.py")
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(load("dataset").write_dataset(tmp_path_factory.mktemp("rows")))


@pytest.mark.slow
def test_rows_are_short_whole_and_in_one_of_the_files_only(files: list[Path]) -> None:
    train, heldout = (read(path) for path in files)
    assert (len(train), len(heldout)) == (320, 48)
    for row in train + heldout:
        assert set(row) == {"prompt", "completion"}
        assert row["prompt"].startswith("Write the first line of the docstring")
        assert row["completion"] not in row["prompt"]
        assert "\n" not in row["completion"]

    def bodies(rows: list[dict[str, str]]) -> list[str]:
        return [row["prompt"].split(":\n", 1)[1] for row in rows]

    assert not set(bodies(train)) & set(bodies(heldout))
    assert len(set(bodies(train))) == len(train)


@pytest.mark.slow
def test_the_files_are_the_same_bytes_in_another_process(files: list[Path], tmp_path: Path) -> None:
    here = [path.read_bytes() for path in files]
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, str(EXAMPLE / "dataset.py"), str(tmp_path / "there")]
    done = processes.finished(*command, env=environment, check=True)
    assert [Path(line).read_bytes() for line in done.stdout.splitlines()] == here


def test_a_base_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("base")
    made = []

    def fake(folder: Path, temporary: Path) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(module, "_from_hub", lambda folder: False)
    monkeypatch.setattr(module, "_from_wheel", fake)
    first = module.make_base(tmp_path)
    assert module.make_base(tmp_path) == first == tmp_path / "SmolLM2-135M-Instruct"
    assert len(made) == 1
    # Nothing that was begun is left beside it.
    assert list(tmp_path.iterdir()) == [first]


def test_a_base_that_breaks_off_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("base")

    def broken(folder: Path, temporary: Path) -> None:
        folder.mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(module, "_from_hub", lambda folder: False)
    monkeypatch.setattr(module, "_from_wheel", broken)
    with pytest.raises(OSError, match="disk full"):
        module.make_base(tmp_path)
    assert list(tmp_path.iterdir()) == []
