"""What a conversation survives: a full disk, names that no file has, and lines that are no text."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sdk.asking.programs import EngineBase
from sdk.asking.prompts import PromptForm, Sampling
from sdk.asking.target import AskTarget
from sdk.cli.support.chatting import Chat

TARGET = AskTarget("sql@v1", EngineBase("tiny", "0" * 64, "/base", 1, None, None), digest="1" * 64, conversations=True)
SAID = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "a" * 6000}]


class Silent:
    """An asker that is asked nothing."""

    def ready(self, target: AskTarget) -> None:
        """Nothing is loaded."""


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.chdir(tmp_path)
    made = Chat(cast(Any, Silent()), TARGET, None, form=PromptForm(None), sampling=Sampling(), system=None)
    made._sides[0].messages += SAID
    return made


@pytest.fixture
def room(request: pytest.FixtureRequest) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.param, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def type_in(chat: Chat, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    left = iter(lines)

    def typed(_prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    chat.on_terminal()


@pytest.mark.parametrize("room", [4000, 8000], indirect=True)
@pytest.mark.parametrize("earlier", ["", '{"text": "a"}'])
def test_a_conversation_is_saved_whole_or_not_at_all(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: None, earlier: str
) -> None:
    path = tmp_path / "talk.jsonl"
    if earlier:
        path.write_text(earlier)
    type_in(chat, monkeypatch, *["/save talk"] * 3)
    rows = path.read_text().splitlines() if path.exists() else []
    assert [json.loads(row) for row in rows if row != earlier] == [{"messages": SAID}] * (len(rows) - bool(earlier))
    assert len(rows) - bool(earlier) == (1 if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 8000 else 0)


@pytest.mark.parametrize("name", [".", "/", "a\0b", "n" * 300, "no/such/folder", "file.jsonl/x"])
def test_a_name_that_no_file_has_ends_no_conversation(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file.jsonl").touch()
    type_in(chat, monkeypatch, f"/save {name}", "/save talk")
    assert "error: " in capfd.readouterr().err
    assert set(os.listdir(tmp_path)) == {"file.jsonl", "talk.jsonl"}


def test_a_system_message_that_is_no_text_is_refused(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    type_in(chat, monkeypatch, "/system a\udcff", "/save talk")
    assert "not text in UTF-8" in capfd.readouterr().err
    assert json.loads((tmp_path / "talk.jsonl").read_text()) == {"messages": SAID}
