"""`adapterctl data preview` and `sdk.preview` over the tiny base: what is shown, and what is refused in a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import tiny, torch_forks
from support.command_line import CommandLine
from support.fixtures import Limits

import sdk.submitting.data_preview
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound, TimedOut, Unavailable

#: Each program loads a tokenizer's libraries.
pytestmark = pytest.mark.slow

CHAT = {
    "messages": [
        {"role": "user", "content": "And in Greek? 🙂"},
        {"role": "assistant", "content": "ηλιόλουστος"},
        {"role": "user", "content": "And as a picture?"},
        {"role": "assistant", "content": "🌞"},
    ]
}
NAMED = {"messages": [{"role": "user", "content": "a", "name": "zoe"}, {"role": "assistant", "content": "b"}]}


class Place(CommandLine):
    """A registry in a folder, the tiny base and rows. What its commands start is forked."""

    def preview(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Preview rows over the base's folder."""
        return self.run("data", "preview", *args, "--base", "./tiny-llama", **env)

    def client(self) -> Client:
        """Return a client of the registry."""
        return Client(self.url, cache=self.folder / "cache")


def write(path: Path, *rows: Any) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One place for all: nothing here changes it."""
    folder = tmp_path_factory.mktemp("preview")
    tiny.save_llama(folder / "tiny-llama")
    tiny.write_rows(folder / "rows.jsonl")
    write(folder / "chat.jsonl", CHAT, CHAT, CHAT, CHAT)
    write(folder / "named.jsonl", CHAT, NAMED)
    write(folder / "bad.jsonl", CHAT, {"messages": CHAT["messages"], "id": 7})
    return Place(folder, cwd=folder, **torch_forks.for_commands())


def test_json_is_one_document_with_spans(place: Place) -> None:
    # By a new process, as all who preview.
    done = place.preview("chat.jsonl", "--rows", "2", "--format", "json", **{torch_forks.VARIABLE: ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    found = json.loads(done.stdout)
    assert [row["row"] for row in found["rows"]] == [1, 2]
    row = found["rows"][0]
    assert [row["text"][start:end] for start, end in row["supervised"]] == ["ηλιόλουστος<|end|>", "🌞<|end|>"]
    assert row["supervised_text"] == "ηλιόλουστος<|end|>🌞<|end|>"
    assert (row["stop"], row["method"], row["cut_tokens"]) == ("<|end|>", "prefix", 0)
    assert found["totals"]["samples"] == found["file_rows"] == 4
    assert found["rendering"]["methods"] == {"prefix": 4}
    assert len(found["rendering"]["templates"][0]) == 64
    assert found["rendering"]["template_date"] is None


def test_rows_with_a_column_of_groups_are_shown_as_they_are_trained_on(place: Place) -> None:
    write(place.folder / "groups.jsonl", *({"text": "row", "customer": at % 2} for at in range(4)))
    write(place.folder / "apart.jsonl", *({"text": f"row {at}", "customer": at // 2} for at in range(4)))
    refused = place.preview("apart.jsonl")
    assert (refused.returncode, "would be lost: `customer`" in refused.stderr) == (2, True)
    done = place.preview("apart.jsonl", "--holdout", "0.5", "--holdout-by", "customer", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["file_rows"] == 2
    # All say the same, so none can be held out of the others.
    refused = place.preview("groups.jsonl", "--holdout", "0.5", "--holdout-by", "customer")
    assert (refused.returncode, "in one group of 'customer'" in refused.stderr) == (2, True)


def test_without_a_terminal_what_is_learnt_is_bracketed(place: Place) -> None:
    done = place.preview("chat.jsonl", "--row", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("row 3 (line 3) · ")
    assert lines[0].endswith("supervised · method prefix · stop <|end|>")
    assert lines[1:5] == [
        "<|user|>And in Greek? 🙂<|end|>",
        "<|assistant|>⟦ηλιόλουστος<|end|>⟧",
        "<|user|>And as a picture?<|end|>",
        "<|assistant|>⟦🌞<|end|>⟧",
    ]
    assert "4 rows, 4 texts," in lines[-1]


def test_texts_with_labels_are_shown_with_them(place: Place) -> None:
    write(place.folder / "labels.jsonl", {"text": "rain 🌧", "label": "погода"}, {"text": "a saw", "label": 7})
    done = place.preview("labels.jsonl", "--row", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith(" tokens · label погода")
    assert lines[1] == "rain 🌧"
    assert lines[-2].split() == ["labels", "7,", "погода"]
    done = place.preview("labels.jsonl", "--loss-on", "all")
    assert (done.returncode, "leave --loss-on out" in done.stderr) == (2, True)


def test_three_rows_are_shown_where_nobody_says_how_many(place: Place) -> None:
    done = place.preview("chat.jsonl", "--format", "quiet")
    assert done.stdout == "ηλιόλουστος<|end|>🌞<|end|>\n" * 3


def test_a_cut_is_said(place: Place) -> None:
    done = place.preview("rows.jsonl", "--rows", "12", "--max-length", "20")
    assert done.returncode == 0
    assert "no stop" in done.stdout
    assert "  cut off after 20 tokens, " in done.stdout
    assert "none of its tokens is supervised, so this text is dropped" in done.stdout


def test_what_a_terminal_would_obey_is_not_printed(place: Place) -> None:
    write(place.folder / "sly.jsonl", {"prompt": "a\x1b]0;x\x07\u202e", "completion": "b\x1b[2J\nc\td"})
    done = place.preview("sly.jsonl")
    assert "a?]0;x??⟦b?[2J\nc\td<|end|>⟧" in done.stdout
    assert place.preview("sly.jsonl", PYTHONIOENCODING="ascii").returncode == 0


def test_a_bad_row_is_refused_as_at_submit(place: Place) -> None:
    shown = place.preview("bad.jsonl")
    submitted = place.run("train", "x", "--base", "./tiny-llama", "--data", "bad.jsonl")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == submitted.stderr
    assert "line 2 has keys besides `messages` and `tools` that would be lost: `id`" in shown.stderr


def test_a_row_that_the_template_loses_is_refused_by_line_and_key(place: Place) -> None:
    done = place.preview("named.jsonl", "--format", "json")
    assert (done.returncode, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["param"]) == ("invalid_data", "file")
    assert "1 of 2 rows can't be used over this base: line 2 holds `name` of message 1" in error["message"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["chat.jsonl", "--row", "5"], 3, "has 4 rows, so there is no row 5; give one from 1 to 4"),
        (["chat.jsonl", "--row", "0"], 2, "row"),
        (["chat.jsonl", "--rows", "0"], 2, "rows"),
        (["chat.jsonl", "--row", "1", "--rows", "2"], 2, "can't be combined"),
        (["chat.jsonl", "--loss-on", "completion"], 2, "set --loss-on to assistant, answer, reasoning or all"),
        (["chat.jsonl", "--max-length", "2"], 2, "--max-length can't be 2"),
        (["none.jsonl"], 3, "check the path of the dataset"),
        (["chat.jsonl", "--base", "./none"], 3, "check the path of the base"),
        (["chat.jsonl", "--base", "."], 3, "has no config.json"),
        (["chat.jsonl", "--base", "tiny-llama"], 3, "if it is a folder, write ./tiny-llama"),
        (["chat.jsonl", "--base", "./bare"], 2, "has no tokenizer that can be loaded"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place: Place, args: list[str], code: int, said: str) -> None:
    (place.folder / "bare").mkdir(exist_ok=True)
    (place.folder / "bare/config.json").write_text('{"model_type": "llama"}')
    base = [] if "--base" in args else ["--base", "./tiny-llama"]
    done = place.run("data", "preview", *args, *base)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_registered_base_is_found_while_its_files_are_what_they_were(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(place.folder / "tiny-llama", folder)
    with closing(place.client()) as client, torch_forks.programs_as_forks():
        view = client.bases.add(folder, id="moved-llama")
        assert client.preview(place.folder / "chat.jsonl", base="moved-llama").rows[0].method == "prefix"
        # A worker that fetched it has it under its fingerprint.
        shutil.copytree(folder, client.cache.base(view.fingerprint))
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        assert client.preview(place.folder / "chat.jsonl", base="moved-llama").rows[0].method == "prefix"
        shutil.rmtree(client.cache.base(view.fingerprint))
        with pytest.raises(NotFound, match=r"are not on this machine as they were registered.*base=./FOLDER"):
            client.preview(place.folder / "chat.jsonl", base="moved-llama")


def test_without_the_workers_extra_it_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"needs transformers and .*pip install 'adapterctl\[worker\]'") as caught:
        client.preview(place.folder / "chat.jsonl", base=place.folder / "tiny-llama")
    assert caught.value.exit_code == 9
    # What is wrong with the rows is said all the same.
    with pytest.raises(InvalidInput, match="line 2 has keys"):
        client.preview(place.folder / "bad.jsonl", base=place.folder / "tiny-llama")
    client.close()


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [("import time; time.sleep(60)", TimedOut, "within"), ("print('[]')", Unavailable, "memory and time")],
)
def test_a_program_that_hangs_or_says_nothing_is_ended(
    program: str,
    error: type[Exception],
    said: str,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits,
) -> None:
    (tmp_path / "stand_in.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits(sdk.submitting.data_preview, _CHILD="stand_in", _TIMEOUT_S=2.0)
    started = time.monotonic()
    with closing(place.client()) as client, pytest.raises(error, match=said):
        client.preview(place.folder / "chat.jsonl", base=place.folder / "tiny-llama")
    assert time.monotonic() - started < 30
