"""What a restart knows of a base while the registry is away."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NoReturn

import pytest

from sdk.errors import NotAllowed, NotFound, TimedOut, Unavailable
from sdk.gateway.tables.last_answers import LastAnswers
from sdk.schemas.lora_config import QuantizationRecipe

RECIPE = QuantizationRecipe()


def away() -> NoReturn:
    raise Unavailable("the registry can't be reached; start it")


def late() -> NoReturn:
    raise TimedOut("the registry is late; try again")


def gone() -> NoReturn:
    raise NotFound("there is none; see the list")


def refused() -> NoReturn:
    raise NotAllowed("this token may not; use another")


@pytest.fixture
def last(tmp_path: Path) -> LastAnswers:
    return LastAnswers(tmp_path / "bases", "https://registry.example.com")


def test_a_registry_that_is_away_has_said_what_it_said_last(last: LastAnswers) -> None:
    assert last.ask(QuantizationRecipe, "a", away) is None
    assert last.ask(QuantizationRecipe, "a", lambda: RECIPE) == RECIPE
    (file,) = last.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert last.ask(QuantizationRecipe, "a", away) == last.ask(QuantizationRecipe, "a", late) == RECIPE
    assert last.ask(QuantizationRecipe, "b", away) is None
    assert LastAnswers(last.folder, "https://another.example.com").ask(QuantizationRecipe, "a", away) is None


@pytest.mark.parametrize("answer", [gone, refused, lambda: None])
def test_what_is_gone_is_not_remembered(last: LastAnswers, answer: object) -> None:
    last.ask(QuantizationRecipe, "a", lambda: RECIPE)
    assert callable(answer)
    assert last.ask(QuantizationRecipe, "a", answer) is None
    assert last.ask(QuantizationRecipe, "a", away) is None


def test_a_file_that_others_could_have_written_says_nothing(last: LastAnswers) -> None:
    last.ask(QuantizationRecipe, "a", lambda: RECIPE)
    (file,) = last.folder.iterdir()
    file.chmod(0o622)
    assert last.ask(QuantizationRecipe, "a", away) is None
    file.chmod(0o600)
    file.write_text("{")
    assert last.ask(QuantizationRecipe, "a", away) is None


def test_a_folder_that_cannot_be_written_keeps_nobody_from_an_answer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert LastAnswers(tmp_path / "file" / "bases", "x").ask(QuantizationRecipe, "a", lambda: RECIPE) == RECIPE
