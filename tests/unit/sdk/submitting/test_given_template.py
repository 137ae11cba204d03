"""A chat template as it is given: a file, a version's own, a base's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support import registries
from support.adapters import base_registration, save_adapter
from support.registries import World

from sdk.errors import AdapterctlError, InvalidBase, InvalidInput, NotFound
from sdk.schemas.template_fields import MOST_TEMPLATE_CHARACTERS
from sdk.schemas.training import TrainingSpec
from sdk.submitting.given_template import with_template_text
from sdk.validation import build

TEMPLATE = "{% for m in messages %}{{ m.content }}<|end|>\r\n{% endfor %}ü"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry with a version that has a template, and one that has none."""
    folder = tmp_path_factory.mktemp("given")
    with registries.embedded(folder / "home") as world:
        world.admin.bases.register(base_registration())
        save_adapter(folder / "plain", 1)
        save_adapter(folder / "taught", 2)
        (folder / "taught" / "chat_template.jinja").write_bytes(TEMPLATE.encode())
        for name in ("plain", "taught"):
            world.writer.push(folder / name, name, base="tiny")
        yield world


def nowhere() -> NoReturn:
    raise AssertionError("a file needs no registry")


def test_a_file_is_read_as_it_is_without_a_registry(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(TEMPLATE.encode())
    for given in (path, str(path)):
        assert with_template_text({"rank": 2, "chat_template": given}, nowhere) == {
            "rank": 2,
            "chat_template": TEMPLATE,
        }
    assert with_template_text({"chat_template": None}, nowhere) == {"chat_template": None}


def test_a_version_and_a_base_have_one_of_their_own(world: World, tmp_path: Path) -> None:
    def text(given: str) -> Any:
        return with_template_text({"chat_template": given}, lambda: world.writer)["chat_template"]

    assert text("taught") == text("taught@v1") == TEMPLATE
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidBase, match="has no chat template, or several; give one in a file"):
        text(f"base:{tmp_path}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "of the config"}')
    assert text(f"base:{tmp_path}") == "of the config"
    (tmp_path / "chat_template.jinja").write_text("of the file")
    assert text(f"base:{tmp_path}") == "of the file"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("plain@v1", InvalidInput, "plain@v1 has no chat template, because it was not trained on conversations"),
        ("gone@v1", NotFound, "gone"),
        ("base:gone", NotFound, "gone"),
        ("mine.jinja", NotFound, "there is no file mine.jinja; check the path"),
        ("./mine", NotFound, "there is no file .*mine; check the path"),
        (["a"], InvalidInput, "is not a chat template; give a file, a version's ref or base:ID"),
    ],
)
def test_what_is_no_template_is_said(world: World, given: Any, error: type[AdapterctlError], said: str) -> None:
    with pytest.raises(error, match=said):
        with_template_text({"chat_template": given}, lambda: world.writer)


def test_a_file_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jinja"
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="is not text in UTF-8; save it as that"):
        with_template_text({"chat_template": path}, nowhere)
    path.write_text("x" * (MOST_TEMPLATE_CHARACTERS + 1))
    with pytest.raises(InvalidInput, match="chat_template"):
        build(TrainingSpec, **with_template_text({"chat_template": path}, nowhere))
