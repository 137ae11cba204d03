"""`compat`: what is printed, how it ends, and what is asked of a registry."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.registries import embedded
from support.small import HIDDEN, write_adapter, write_base, write_safetensors

from sdk import Client
from sdk.cli.commands import compat as command
from sdk.cli.commands import show
from sdk.cli.commands.compat import compat_command
from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.examining import engine_compatibility
from sdk.lora.tensors import read_tensors

LLAMA = {"vocab_size": 16, "tie_word_embeddings": False, "eos_token_id": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that each engine serves, and a DoRA."""
    root = tmp_path_factory.mktemp("folders")
    write_base(root / "base", **LLAMA)
    write_adapter(root / "plain")
    write_adapter(root / "rslora", use_rslora=True)
    return root


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, folders: Path) -> Iterator[Client]:
    """A registry in this process that has both."""
    with embedded(tmp_path_factory.mktemp("registry") / "home") as world:
        client = world.admin
        for name in ("plain", "rslora"):
            client.push(folders / name, name, base=folders / "base")
        yield client


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, registry: Client) -> Any:
    for module in (command, show):
        monkeypatch.setattr(module, "open_client", lambda: nullcontext(registry))
    return drawn


def drawn(*args: str) -> Result:
    """Run it as at a terminal, unless another format is asked for; `piped` is what a pipe gets."""
    given = [*args, *([] if "--format" in args else ["--format", "table"])]
    if "piped" in given:
        at = given.index("piped")
        del given[at - 1 : at + 1]
    return CliRunner().invoke(compat_command, given)


def test_a_version_that_is_served(run: Any) -> None:
    done = run("plain", "--engine", "vllm")
    lines = done.stdout.splitlines()
    assert (done.exit_code, lines[0]) == (0, "vllm 0.33.0: yes")
    assert all(len(line) <= 80 and line.isprintable() for line in lines)
    assert "  adapterctl pull plain@v1 -o ./plain" in lines
    assert "  vllm serve BASE --enable-lora --lora-modules plain=./plain" in lines


def test_one_that_is_not_ends_with_7_and_says_what_makes_it_fit(run: Any) -> None:
    done = run("rslora@v1", "--engine", "sglang")
    assert done.exit_code == 7
    assert done.stdout.splitlines()[0] == "sglang 0.5.23: no"
    assert "make it fit with:\n  adapterctl export rslora@v1 --to lora -o ./plain\n" in done.stdout
    assert "serve it with" not in done.stdout
    assert run("rslora@v1", "--engine", "vllm").exit_code == 0


def test_one_that_is_not_known_ends_with_7_too(run: Any) -> None:
    done = run("plain", "--engine", "ollama", "--version", "0.25.0")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (7, "ollama 0.32.15: unknown")
    assert "! version: ollama 0.25.0 is not known here: the table has 0.33.0 and 0.32.15\n" in done.stdout
    assert "find out with:" in done.stdout


def test_pipe_gets_a_rule_a_line(run: Any) -> None:
    done = run("rslora@v1", "--engine", "sglang", "--format", "piped")
    assert done.exit_code == 7
    header, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert header == ["rule", "fits", "reason", "read_in", "release", "day"]
    assert {len(line) for line in lines} == {6}
    assert "no" in {line[1] for line in lines}
    assert "adapterctl export rslora@v1 --to lora -o ./plain" in done.stderr
    bare = run("rslora@v1", "--engine", "sglang", "--format", "piped", "--no-header")
    assert [line.split("\t") for line in bare.stdout.splitlines()] == lines


def test_json_and_quiet(run: Any, registry: Client) -> None:
    done = run("plain", "--engine", "llama.cpp", "--format", "json")
    assert json.loads(done.stdout) == registry.versions.compat("plain", engine="llama.cpp").as_dict()
    assert json.loads(done.stdout)["ref"] == "plain@v1"
    assert run("plain", "--engine", "peft", "--format", "quiet").stdout == "yes\n"


def test_a_folder_needs_no_registry(monkeypatch: pytest.MonkeyPatch, folders: Path, tmp_path: Path) -> None:
    client = Client(f"local:{tmp_path / 'none'}")
    monkeypatch.setattr(command, "open_client", lambda: nullcontext(client))
    monkeypatch.chdir(folders)
    done = CliRunner().invoke(compat_command, ["./plain", "--base", "./base", "--engine", "vllm", "--format", "table"])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "vllm 0.33.0: yes")
    assert "  vllm serve ./base --enable-lora --lora-modules plain=./plain\n" in done.stdout
    assert not (tmp_path / "none").exists()
    # Without its base it is not known what it is over.
    assert CliRunner().invoke(compat_command, ["./plain", "--engine", "vllm"]).exit_code == 7


@pytest.mark.parametrize("length", [1, 30, 60, 100])
def test_a_long_command_is_broken_so_that_it_can_be_pasted(length: int) -> None:
    words = ["vllm serve", "'a b'" * 3, "x" * length, "--flag 'FROM a b'", "y" * 60, '"c d"']
    lines = command._wrapped(" ".join(words))
    # A line with an open quote is refused here.
    assert [word for line in lines for word in shlex.split(line)] == shlex.split(" ".join(words))
    assert all(len(line) <= 72 for line in lines) or length > 72


def test_what_the_registry_found_of_embeddings_counts(registry: Client, folders: Path, tmp_path: Path) -> None:
    """Their bytes are not fetched: the warnings that the version got when it was pushed say it."""
    head, embeddings = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"
    for name, rows in (("resized", 18), ("whole", 16)):
        folder = write_adapter(tmp_path / name)
        tensors = {
            key: list(tensor.shape) for key, tensor in read_tensors(folder / "adapter_model.safetensors").items()
        }
        tensors |= {embeddings: [rows, HIDDEN], head: [rows, HIDDEN]}
        write_safetensors(folder / "adapter_model.safetensors", tensors)
        registry.push(folder, name, base=folders / "base")
    resized, whole = (registry.versions.compat(name, engine="vllm") for name in ("resized", "whole"))
    assert [finding.rule for finding in (*resized.against, *whole.against)] == ["vocabulary", "vocabulary"]
    assert "another number of tokens" in resized.against[0].reason
    assert "save_embedding_layers=False" in whole.against[0].reason


def test_what_is_refused(registry: Client, folders: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'new' is not a version of vllm; give one as 0\.33\.0"):
        registry.versions.compat("plain", engine="vllm", version="new")
    with pytest.raises(InvalidInput, match="there is no table of 'tgi'"):
        registry.versions.compat("plain", engine="tgi")
    with pytest.raises(InvalidInput, match="a version has a base of its own"):
        registry.versions.compat("plain", engine="vllm", base=folders / "base")
    with pytest.raises(NotFound):
        registry.versions.compat("nobody", engine="vllm")
    for engine in (None, 1, ["vllm"]):
        with pytest.raises(InvalidInput, match="engine is not text; give one of vllm, sglang"):
            registry.versions.compat("plain", engine=engine)  # type: ignore[arg-type]
    for version in (1, 0.33, ["0.33.0"]):
        with pytest.raises(InvalidInput, match="version is not text"):
            registry.versions.compat("plain", engine="vllm", version=version)  # type: ignore[arg-type]


def test_a_base_that_was_taken_away_is_not_guessed(registry: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise NotFound("there is no base")

    found = registry.versions.compat("plain", engine="vllm")
    monkeypatch.setattr(engine_compatibility.bases, "get", gone)
    # Nothing of these modules depends on its config.
    assert registry.versions.compat("plain", engine="vllm").findings == found.findings


def test_show_says_it_in_brief(run: Any) -> None:
    done = CliRunner().invoke(show.show_command, ["rslora", "--format", "json"])
    answers = {engine: said["answer"] for engine, said in json.loads(done.stdout)["compat"].items()}
    assert answers == {"vllm": "yes", "sglang": "no", "llama.cpp": "yes", "ollama": "yes", "peft": "yes"}


def test_what_a_ref_can_be_is_a_ref_whatever_lies_here(
    registry: Client, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pull -o ./plain` writes a folder of the version's name: both commands still mean the version."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "plain", tmp_path / "team" / "deeper" / "mine", tmp_path / "only-here"):
        write_adapter(folder)
    assert registry.versions.compat("plain", engine="vllm").ref == "plain@v1"
    assert registry.versions.compat("./plain", engine="vllm").ref == "./plain"
    assert registry.versions.compat("team/deeper/mine", engine="vllm").ref == "./team/deeper/mine"
    with pytest.raises(NotFound, match=r"if you mean the folder, write \./only-here$"):
        registry.versions.compat("only-here", engine="vllm")
    with pytest.raises(NotFound, match=r"if you mean the folder, write \./only-here$"):
        registry.versions.export("only-here", tmp_path / "a.gguf")
    with pytest.raises(InvalidInput, match=r"is an adapter; say which base"):
        registry.versions.export("team/deeper/mine", tmp_path / "a.gguf")
    # The base of this one is too small a config to be exported, which is found after the ref.
    with pytest.raises(InvalidBase, match="does not say its"):
        registry.versions.export("plain", tmp_path / "a.gguf")
