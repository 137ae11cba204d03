"""From the client, and the command, to a GGUF file that is whole, or to none."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import random_loras, tiny
from support.processes import environment, run
from support.random_loras import RandomLora
from support.trainings import names_in as left
from support.waiting import wait_until
from support.workplace import is_alive

import sdk.worker_program
from sdk.client import Client
from sdk.errors import AdapterctlError, Conflict, InvalidBase, InvalidInput, NotFound, TimedOut, Unavailable
from sdk.lora import gguf_models
from sdk.schemas.export import ExportRequest
from sdk.schemas.wire import read_json


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over it, as plain PEFT saves it."""
    folder = tmp_path_factory.mktemp("adapter") / "docstrings"
    made = RandomLora(
        "llama-tied", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}
    )
    random_loras.save(made, base, folder, seed=1, input_ids=torch.tensor([[5, 6]]))
    return folder


@pytest.mark.slow
def test_the_command_exports_an_adapter_and_its_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    asked = ["export", str(adapter), "--base", str(base), "-o", "out/a.gguf", "--dtype", "f16", "--format", "json"]
    done = run("adapterctl", *asked, cwd=tmp_path, env=environment())
    said = json.loads(done.stdout)
    assert said["path"] == str(tmp_path / "out/a.gguf")
    assert (said["kind"], said["architecture"], said["dtype"], said["tensors"]) == ("adapter", "llama", "f16", 8)
    assert said["size_bytes"] == (tmp_path / "out/a.gguf").stat().st_size
    done = run("adapterctl", "export", f"{base}", "-o", "m.gguf", cwd=tmp_path, env=environment())
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'm.gguf'}\n")
    assert "llama model, 20 tensors in f32" in done.stderr
    assert "texts split as gpt-2; read back and the same" in done.stderr
    assert left(tmp_path / "out") == ["a.gguf"]


@pytest.mark.usefixtures("here")
def test_a_version_is_exported_by_its_ref(client: Client, base: Path, adapter: Path, tmp_path: Path) -> None:
    view = client.bases.add(base, id="tiny")
    version = client.push(adapter, "team/docstrings", base="tiny")
    by_ref = client.versions.export("team/docstrings@v1", tmp_path / "ref.gguf")
    by_folder = client.versions.export(adapter, tmp_path / "folder.gguf", base=base)
    by_id = client.versions.export(adapter, tmp_path / "id.gguf", base=view.id)
    assert by_ref.report.tensors == by_folder.report.tensors == by_id.report.tensors == 8
    from workers.pipelines.exporting.gguf_file import WrittenGguf

    written = WrittenGguf(by_ref.path)
    assert written.value("general.name") == version.ref
    assert written.value("general.base_model.0.name") == "tiny"
    assert WrittenGguf(by_folder.path).value("general.name") == "docstrings"
    client.versions.export("team/docstrings@v1", tmp_path / "checked.gguf", base=base)
    # Another base of the same shapes is another's, for a version says which one it has.
    other = tiny.save_llama(tmp_path / "other", seed=9)
    with pytest.raises(AdapterctlError, match=r"belongs to tiny .*, not to other"):
        client.versions.export("team/docstrings@v1", tmp_path / "x.gguf", base=other)
    with pytest.raises(NotFound):
        client.versions.export("team/nothing@v1", tmp_path / "x.gguf")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (
            lambda c, b, a, f: c.versions.export(a, f / "x.gguf"),
            InvalidInput,
            "say which base it was trained over with base=",
        ),
        (lambda c, b, a, f: c.versions.export(b, f / "x.gguf", base=b), InvalidInput, "needs no base"),
        (
            lambda c, b, a, f: c.versions.export(a, f / "x.gguf", base=b, tokenizer_from="t.gguf"),
            InvalidInput,
            "has no tokenizer",
        ),
        (
            lambda c, b, a, f: c.versions.export(b, f / "x.gguf", tokenizer_from=f / "t.gguf"),
            NotFound,
            "which is not a file",
        ),
        (lambda c, b, a, f: c.versions.export(a, f / "x.gguf", base="nothing"), NotFound, "nothing"),
        (lambda c, b, a, f: c.versions.export(a, f / "x.gguf", base=f), NotFound, "config.json"),
        (lambda c, b, a, f: c.versions.export(f / "no", f / "x.gguf"), NotFound, "there is no folder"),
        (
            lambda c, b, a, f: c.versions.export(f, f / "x.gguf"),
            NotFound,
            "has neither adapter_config.json nor config.json",
        ),
        (lambda c, b, a, f: c.versions.export(a, f / "x.bin", base=b), InvalidInput, "does not end in .gguf"),
        (lambda c, b, a, f: c.versions.export(a, f / "there.gguf", base=b), Conflict, "already exists"),
        (
            lambda c, b, a, f: c.versions.export(a, f / "there.gguf/x.gguf", base=b),
            InvalidInput,
            "its path leads through a file",
        ),
        (
            lambda c, b, a, f: c.versions.export(a, f / ("x" * 300 + ".gguf"), base=b),
            InvalidInput,
            "can't be written .File name too",
        ),
        (
            lambda c, b, a, f: c.versions.export(a, "/proc/x.gguf", base=b),
            InvalidInput,
            "/proc/x.gguf can't be written",
        ),
        (lambda c, b, a, f: c.versions.export(a, "", base=b), InvalidInput, "the output has no name; give one with -o"),
        (lambda c, b, a, f: c.versions.export("", f / "x.gguf"), InvalidInput, "nothing is named to export"),
        (lambda c, b, a, f: c.versions.export("./" + "x" * 300, f / "x.gguf"), NotFound, "there is no folder"),
        (lambda c, b, a, f: c.versions.export("x" * 300, f / "x.gguf"), AdapterctlError, "^(?!.*unexpected)"),
        (
            lambda c, b, a, f: c.versions.export(a, f / "x.gguf", base="./" + "x" * 300),
            InvalidBase,
            "can't be read .File name too",
        ),
        (
            lambda c, b, a, f: c.versions.export(b, f / "x.gguf", tokenizer_from=""),
            NotFound,
            "an empty name; give a GGUF file",
        ),
        (
            lambda c, b, a, f: c.versions.export(b, f / "x.gguf", tokenizer_from="/dev/zero"),
            NotFound,
            "/dev/zero, which is not a file",
        ),
        (
            lambda c, b, a, f: c.versions.export(a, f / "x.gguf", base=b, dtype="q8"),
            InvalidInput,
            "no dtype 'q8'; give f32, f16, bf16",
        ),
        (
            lambda c, b, a, f: c.versions.export(a, f / "bad\udcff.gguf", base=b),
            InvalidInput,
            "is not UTF-8; rename it",
        ),
    ],
)
def test_what_can_not_be_is_said_before_anything_is_written(
    ask: Callable[..., Any], error: Any, said: str, client: Client, base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "there.gguf").write_bytes(b"mine")
    with pytest.raises(error, match=said):
        ask(client, base, adapter, folder)
    assert left(folder) == ["there.gguf"]
    assert (folder / "there.gguf").read_bytes() == b"mine"


@pytest.mark.usefixtures("here")
def test_a_full_disk_leaves_nothing(client: Client, base: Path, adapter: Path, tmp_path: Path) -> None:
    whole = client.versions.export(base, tmp_path / "whole.gguf").report.size_bytes
    out = tmp_path / "out"
    for share in (0.02, 0.5, 0.99):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(whole * share), hard))
        try:
            with pytest.raises(Unavailable, match=r"the disk is full while writing .*free some space"):
                client.versions.export(base, out / "model.gguf")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left(out) == []
    client.versions.export(base, out / "model.gguf")
    assert (out / "model.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_a_program_that_fails_or_is_slow_leaves_nothing(
    client: Client, base: Path, adapter: Path, tmp_path: Path, instead: Callable[[Callable[..., Any]], None]
) -> None:
    def killed(_module: str, *, asked: bytes, **_: Any) -> None:
        Path(read_json(ExportRequest, asked).out).write_bytes(b"GGUF, half of it")

    program = sdk.worker_program.run_program

    def slow(_module: str, **given: Any) -> Any:
        return program("http.server", "0", **given | {"timeout_s": 0.1})

    out = tmp_path / "out"
    for done, error, said in ((killed, Unavailable, "without an answer"), (slow, TimedOut, "not exported within")):
        instead(done)
        with pytest.raises(error, match=said):
            client.versions.export(adapter, out / "a.gguf", base=base)
        assert left(out) == []


@pytest.mark.usefixtures("here")
def test_what_a_killed_call_left_is_swept_and_what_goes_on_is_not(
    client: Client, base: Path, adapter: Path, tmp_path: Path, instead: Callable[[Callable[..., Any]], None]
) -> None:
    program, out = sdk.worker_program.run_program, tmp_path / "out"

    # As a process that is killed leaves it, whose hold ends with it.
    dead = ".a.gguf.c0ffee.partial"
    (out / dead).mkdir(parents=True)
    (out / dead / "file.gguf").write_bytes(b"GGUF, half of it")
    seen: list[str] = []

    def another(*given: Any, **asked: Any) -> Any:
        instead(program)
        client.versions.export(adapter, out / "a.gguf", base=base, dtype="f16")
        seen.extend(left(out))
        return program(*given, **asked)

    instead(another)
    with pytest.raises(Conflict, match="was created meanwhile"):
        client.versions.export(adapter, out / "a.gguf", base=base)
    assert dead not in seen
    assert len(seen) == 2
    assert left(out) == ["a.gguf"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["a.gguf", "a.Modelfile"])
def test_what_came_there_meanwhile_stays(
    name: str, client: Client, base: Path, adapter: Path, tmp_path: Path, instead: Callable[[Callable[..., Any]], None]
) -> None:
    program = sdk.worker_program.run_program
    target = tmp_path / "out" / name

    def beaten(*given: Any, **asked: Any) -> Any:
        target.write_bytes(b"mine")
        return program(*given, **asked)

    instead(beaten)
    with pytest.raises(Conflict, match="was created meanwhile"):
        client.versions.export(adapter, target.with_name("a.gguf"), base=base, modelfile=True, ollama_base="tiny")
    assert (left(target.parent), target.read_bytes()) == ([name], b"mine")


@pytest.mark.usefixtures("here")
def test_a_modelfile_beside_it(client: Client, base: Path, adapter: Path, tmp_path: Path) -> None:
    made = client.versions.export(adapter, tmp_path / "a.gguf", base=base, modelfile=True, ollama_base="tiny:1b")
    assert made.modelfile == tmp_path / "a.Modelfile"
    lines = made.modelfile.read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["FROM tiny:1b", "ADAPTER ./a.gguf"]
    over = {"base": base, "modelfile": True}
    for name, asked, said in (
        ("b.gguf", over, "names its base"),
        ("b.gguf", {**over, "ollama_base": "x\nADAPTER y"}, "is neither the name of a model"),
        ("b\n.gguf", {**over, "ollama_base": "x"}, "can't name"),
        ("b.gguf", {"base": base, "ollama_base": "x"}, "give modelfile= too"),
    ):
        with pytest.raises((InvalidInput, Conflict), match=said):
            client.versions.export(adapter, tmp_path / name, **asked)  # type: ignore[arg-type]
    (tmp_path / "c.Modelfile").write_text("mine")
    with pytest.raises(Conflict, match=r"c\.Modelfile already exists"):
        client.versions.export(adapter, tmp_path / "c.gguf", base=base, modelfile=True, ollama_base="x")
    assert {path.name for path in tmp_path.iterdir()} & {"b.gguf", "c.gguf", "b.Modelfile"} == set()
    whole = client.versions.export(base, tmp_path / "m.gguf", modelfile=True)
    assert whole.modelfile.read_text().splitlines()[-1] == "FROM ./m.gguf"
    with pytest.raises(InvalidInput, match="needs no base in Ollama"):
        client.versions.export(base, tmp_path / "n.gguf", modelfile=True, ollama_base="x")


@pytest.mark.usefixtures("here")
def test_a_long_name_in_any_script(client: Client, base: Path, adapter: Path, tmp_path: Path) -> None:
    client.versions.export(adapter, tmp_path / ("😀" * 60 + ".gguf"), base=base)
    assert "😀" * 60 + ".gguf" in left(tmp_path)


#: The program of exports, which never ends once it has begun to write.
ENDLESS = """
import os, time
from pathlib import Path
import workers.pipelines.exporting.program as program
def export(request):
    Path(request.out).write_bytes(b"half")
    Path(request.out).parent.parent.joinpath("pid").write_text(str(os.getpid()))
    time.sleep(120)
program.export = export
program.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a program outlives a killed command")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_command_that_is_ended_takes_its_program_along(
    number: signal.Signals, base: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    out = tmp_path / "out"
    # Whoever runs this test may ignore the signal.
    said = f"import signal; {'' if number is signal.SIGKILL else f'signal.signal({int(number)}, signal.SIG_DFL); '}"
    said += "import sdk.exporting.running as running; running._PROGRAM = 'endless'; from adapterctl_entry.scripts import adapterctl; adapterctl()"
    given = ["export", str(adapter), "--base", str(base), "-o", str(out / "a.gguf")]
    env = environment() | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[4]}"}
    with subprocess.Popen([sys.executable, "-c", said, *given], env=env) as command:
        program = int(wait_until(lambda: (out / "pid").exists() and (out / "pid").read_text()))
        command.send_signal(number)
        assert command.wait(20) == -number
    wait_until(lambda: not is_alive(program))
    if number is not signal.SIGKILL:
        assert left(out) == ["pid"]


def test_what_a_program_did_not_expect_has_its_own_sentence(
    client: Client, base: Path, adapter: Path, tmp_path: Path, instead: Callable[[Callable[..., Any]], None]
) -> None:
    def failed(_module: str, *, asked: bytes, **_: Any) -> dict[str, str]:
        return {"unexpected": "TypeError: 'int' object is not iterable"}

    instead(failed)
    with pytest.raises(
        AdapterctlError, match="because of an unexpected TypeError: 'int' object is not iterable; report it"
    ) as told:
        client.versions.export(adapter, tmp_path / "a.gguf", base=base)
    assert told.value.code == "internal"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TypeError("no\ud800"), {"unexpected": "TypeError: no\ud800"}),
        (MemoryError(), {"refused": "/m takes more memory than its files should need", "code": "unavailable"}),
    ],
)
def test_a_program_says_whatever_stops_it(
    error: Exception, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.pipelines.exporting import program

    def export(_request: ExportRequest) -> None:
        raise error

    monkeypatch.setattr(program, "export", export)
    request = ExportRequest(kind="model", folder="/m", config={}, out="/m.gguf", dtype=None, name="m")
    answer = json.loads(json.dumps(program._answer(request)))
    assert all(str(answer[key]).startswith(value) for key, value in said.items())


def test_a_config_refuses_before_the_program_is_started(
    client: Client, base: Path, tmp_path: Path, instead: Callable[[Callable[..., Any]], None]
) -> None:
    def started(*_given: Any, **_asked: Any) -> None:
        raise AssertionError("the program was started")

    instead(started)
    folder = tmp_path / "model"
    folder.mkdir()
    config = {
        **json.loads((base / "config.json").read_text()),
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidBase, match="is a OPTForCausalLM"):
        client.versions.export(folder, tmp_path / "x.gguf")


def test_without_the_workers_extra_it_says_what_to_install(
    client: Client, base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sdk.worker_program, "missing_libraries", lambda names: [name for name in names if name == "gguf"]
    )
    for target, over in ((adapter, base), (base, None)):
        with pytest.raises(
            Unavailable, match=r"needs gguf, which this Python lacks; run: pip install 'adapterctl\[worker\]'"
        ):
            client.versions.export(target, tmp_path / "x.gguf", base=over)


def test_the_page_names_what_can_be_exported() -> None:
    from workers.pipelines.exporting.tokenizer import PRE_TOKENIZERS

    page = (Path(__file__).parents[4] / "docs" / "exporting.md").read_text()
    named = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(PRE_TOKENIZERS.values())
    ((head, adapters, models),) = re.findall(
        r"^\| \|(.* others) \|\n.*\n\| adapter \|(.*)\|\n\| model, .*? \|(.*)\|$", page, re.M
    )
    titles = [title for cell in head.split("|") for title in cell.strip().split(", ")]
    assert set(titles) - {"others"} == {family.title for family in gguf_models._FAMILIES.values()}
    for cells, known in ((adapters, gguf_models._FAMILIES), (models, gguf_models._WHOLE)):
        allowed = [
            title
            for column, said in zip(head.split("|"), cells.split("|"), strict=True)
            for title in column.strip().split(", ")
            if said.strip().startswith("yes")
        ]
        assert set(allowed) == {gguf_models._FAMILIES[kind].title for kind in known}
