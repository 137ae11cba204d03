"""`adapterctl data preview --of REF`: what the training of a version has learnt of its rows, by its record."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from support import child_forks, merges, tiny, torch_forks
from support.command_line import CommandLine

import sdk.submitting.data_preview
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound
from sdk.schemas.catalog import VersionView

pytestmark = pytest.mark.slow

#: A template that asks for the date.
TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}\n{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Place(CommandLine):
    """A registry in a folder, with a version that was trained there on another day."""

    version: VersionView

    def preview(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run("data", "preview", *args)

    def client(self) -> Client:
        return Client(self.url, cache=self.folder / "cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("preview-of")
    base = tiny.save_llama(folder / "tiny-llama")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} it is."}]}
        for n in range(4)
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = Place(folder, cwd=folder, **torch_forks.for_commands())
    train = ["train", "counter", "--base", "./tiny-llama", "--data", "chat.jsonl", "--method", "lora", "--rank", "2"]
    train += ["--max-steps", "1", "--max-length", "24", "--loss-on", "all"]
    (folder / "other.jinja").write_text("{% if brief is defined %}Be {{ brief }}.{% endif %}" + TEMPLATE)
    train += ["--chat-template", "other.jinja", "--template-kwargs", 'brief="short"']
    with child_forks.local_runner(folder / "home", place.env):
        place.json(*train)
    with closing(place.client()) as client:
        place.version = client.get("counter@v1").info
    return place


def test_it_shows_what_the_record_says_was_trained(place: Place) -> None:
    done = place.preview("--of", "counter@v1", "--row", "2", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    use, training = place.version.dataset, place.version.training or {}
    # What stands there of the base's own files is not asked of a preview.
    rendering = use.rendering.model_copy(update={"tokenizer": None, "generation": None})
    assert found["rendering"] == rendering.model_dump(mode="json")
    assert found["totals"]["supervised_tokens"] == use.supervised_tokens
    assert (found["totals"]["samples"], found["totals"]["rows_cut"]) == (training["samples"], training["rows_cut"])
    assert (found["loss_on"], found["max_length"], found["file_rows"]) == ("all", 24, 4)
    assert (
        found["template"]
        == '{%- set brief = "short" %}{#- template_kwargs #}' + (place.folder / "other.jinja").read_text()
    )
    assert found["rows"][0]["text"].startswith("Be short.")
    assert training["template_kwargs"] == 'brief="short"'
    assert training["chat_template"] == hashlib.sha256((place.folder / "other.jinja").read_bytes()).hexdigest()
    assert [row["row"] for row in found["rows"]] == [2]


def test_first_rows_that_the_training_recorded_are_those_that_a_preview_of_it_shows(place: Place) -> None:
    shown = place.json("show", "counter@v1", "--rows")
    preview = json.loads(place.preview("--of", "counter@v1", "--rows", "4", "--format", "json").stdout)
    expected = {row["where"]: row for row in preview["rows"]}
    texts = shown["recorded"]["texts"]
    assert (shown["ref"], shown["datasets"]) == ("counter@v1", [place.version.dataset.digest])
    assert 0 < len(texts) <= 4
    for text in texts:
        (piece,), same = text["pieces"], expected[text["where"]]
        assert (piece["text"], piece["supervised"]) == (same["text"], same["supervised"])
        assert [text[name] for name in ("tokens", "supervised_tokens", "stop", "step")] == [
            *(same[name] for name in ("tokens", "supervised_tokens", "stop")),
            1,
        ]
    printed = place.run("show", "counter@v1", "--rows")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "24 tokens, 23 supervised · step 1 · no stop" in printed.stdout
    assert "⟦" in printed.stdout
    marked = [text["pieces"][0]["text"][slice(*text["pieces"][0]["supervised"][0])] for text in texts]
    assert place.run("show", "counter@v1", "--rows", "--format", "quiet").stdout == "".join(
        f"{one}\n" for one in marked
    )


def test_the_date_is_that_of_the_training_and_rows_come_from_the_registry(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sdk.submitting.data_preview, "_today", lambda: "2031-01-02")
    (place.folder / "chat.jsonl").rename(tmp_path / "away.jsonl")
    client = Client(place.url, cache=tmp_path / "cache")
    digest = client.get("counter@v1").info.dataset.digest  # type: ignore[union-attr]
    cached = client.cache.blob(digest)
    cached.parent.mkdir(parents=True)
    cached.write_text('{"messages": "of somebody else"}\n')
    with torch_forks.programs_as_forks():
        found = client.preview(of="counter@v1", rows=1)
    client.close()
    (tmp_path / "away.jsonl").rename(place.folder / "chat.jsonl")
    assert "2031" not in found.rows[0].text
    assert found.rendering.template_date == place.version.created_at.date().isoformat()
    assert client.cache.is_unaltered(cached, digest)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["chat.jsonl", "--of", "counter@v1"], 2, "give either a file of rows, or with --of"),
        ([], 2, "give either a file of rows, or with --of"),
        (["chat.jsonl"], 2, "name the base that the rows"),
        (["--of", "counter@v1", "--base", "./tiny-llama"], 2, "base of a version is in"),
        (
            ["--of", "counter@v1", "--max-length", "20", "--loss-on", "all"],
            2,
            "--max-length and --loss-on of a version are in",
        ),
        (["--of", "counter@v9"], 3, "counter"),
        (["--of", "no ref"], 2, "ref"),
        (["--of", "pushed@v1"], 2, "names no dataset, because it was pushed; preview a file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place: Place, args: list[str], code: int, said: str, tmp_path: Path) -> None:
    if "pushed@v1" in args:
        with closing(place.client()) as client:
            base = place.folder / "tiny-llama"
            # Other bytes than the training's, whose past a push of them would have.
            made = merges.save_adapter(base, tmp_path / "made", r=2, lora_alpha=4, target_modules=["q_proj"])
            client.push(made, "pushed", base=base)
    done = place.preview(*args)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_base_whose_files_are_gone_and_a_dataset_that_was_given_up_are_named(place: Place, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(place.folder / "home", home)
    client = Client(f"local:{home}", cache=tmp_path / "cache")
    (place.folder / "tiny-llama").rename(tmp_path / "away")
    try:
        with pytest.raises(
            NotFound, match=r"files of base .* of counter@v1 are not on this machine .*adapterctl base fix"
        ):
            client.preview(of="counter@v1")
    finally:
        (tmp_path / "away").rename(place.folder / "tiny-llama")
    client.datasets.remove("chat.jsonl")
    with pytest.raises(NotFound, match=r"of counter@v1 was removed; add its file again with: adapterctl data add FILE"):
        client.preview(of="counter@v1")
    client.close()


def test_a_record_that_leaves_out_the_longest_row_is_no_guess(place: Place) -> None:
    version = place.version.model_copy(update={"training": {"loss_on": "all"}})
    with pytest.raises(InvalidInput, match="doesn't have its training's loss_on and max_length"):
        sdk.submitting.data_preview.asked_of(version, rows=1, row=None)


def test_a_classification_is_asked_for_no_part_of_a_text(place: Place) -> None:
    training = {"objective": "classify", "loss_on": "all", "max_length": 9}
    version = place.version.model_copy(update={"training": training})
    asked = sdk.submitting.data_preview.asked_of(version, rows=1, row=None)
    assert (asked.options["loss_on"], asked.options["max_length"]) == (None, 9)
