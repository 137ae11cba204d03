"""A notebook in a real kernel: what each cell shows, and what a pipeline's next step reads."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support import processes, registries
from support.seeded_versions import Maker

from sdk.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
CELLS = {
    "connect": "import adapterctl, sdk\nclient = sdk.connect({url!r})\nclient",
    "version": "v = sdk.get('code-review@v1')\nv",
    "facts": "v.metrics['loss'], v.aliases, v.base.id, v.tags, [p.ref for p in v.parents], v.created_at.year",
    "search": "found = sdk.search('name = code-review')\nfound",
    "job": "job = sdk.jobs()[0]\njob",
    "wait": "job.wait(progress=True).state.value",
    "jobs": "sdk.jobs()",
    "evaluations": "v.evaluations",
    "evaluation": "v.evaluations[0]",
    "diff": "sdk.diff('code-review@v1', 'code-review@v2', weights=False)",
    "plot": "sdk.plot('code-review@v1')",
    "plots": "sdk.plot([v, job]), sdk.plot(v), sdk.plot(job)",
    "same": "adapterctl.Job is sdk.Job, type(job).__module__",
    "pickled": "import pickle\nopen({folder!r} + '/step', 'wb').write(pickle.dumps([job, v, found])) > 0",
    "help": "help(sdk.pull)",
    "away": "away = sdk.Client('http://127.0.0.1:9')\nlost = sdk.Version(found[0].brief, away)\nlost",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in a folder, with versions, their curves, and scores."""
    folder = tmp_path_factory.mktemp("notebook")
    with registries.embedded(folder / "home") as world:
        maker = Maker(world, folder, layers=2)
        first = maker.trained("code-review", steps=60)
        world.writer.versions.annotate(first.ref, tags={"language": "<script>alert(1)</script>"})
        maker.scored(first.ref, loss=1.5, rows=48.0)
        # The last job is a training.
        maker.trained("code-review", steps=60)
    return folder / "home"


@pytest.fixture(scope="module")
def outputs(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each cell shows in a kernel."""
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "cells").mkdir()
    cells = {
        name: source.replace("{url!r}", repr(f"local:{home}")).replace("{folder!r}", repr(str(folder)))
        for name, source in CELLS.items()
    }
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells.values()])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOME": str(folder), "IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(PAGE.parents[1]))
        NotebookClient(notebook, kernel_name="python3", timeout=240, startup_timeout=240).execute()
    found = {name: cell.outputs for name, cell in zip(cells, notebook.cells, strict=True)}
    found["folder"] = [folder]
    return found


def data(outputs: dict[str, list[Any]], name: str) -> dict[str, str]:
    return outputs[name][-1]["data"]


def test_each_cell_shows_a_table_and_a_line(outputs: dict[str, list[Any]], home: Path) -> None:
    for name in ("version", "search", "job", "jobs", "evaluations", "evaluation", "diff", "away"):
        shown = data(outputs, name)
        assert shown["text/html"].count("<table") >= 1, name
        assert "<script" not in shown["text/html"]
        assert "http" not in shown["text/html"]
        assert "\n" not in shown["text/plain"], name
    assert "&lt;script&gt;" in data(outputs, "version")["text/html"]
    assert data(outputs, "connect")["text/plain"] == f"Client(url='local:{home}')"
    assert data(outputs, "facts")["text/plain"].startswith("(1.31, [], ")
    assert data(outputs, "search")["text/plain"].startswith("[Version(ref='code-review@v2'")


def test_curves_are_drawn_in_the_notebook(outputs: dict[str, list[Any]]) -> None:
    shown = data(outputs, "plot")
    assert shown["image/svg+xml"].startswith("<svg")
    assert shown["text/plain"] == "Plot('code-review@v1')"
    assert data(outputs, "plots")["text/plain"].startswith("(Plot('code-review@v1', ")
    assert data(outputs, "plots")["text/plain"].count("Plot(") == 3


def test_a_wait_shows_a_bar_that_ends(outputs: dict[str, list[Any]]) -> None:
    bar, state = outputs["wait"]
    assert state["data"]["text/plain"] == "'succeeded'"
    assert "<progress" in bar["data"]["text/html"]
    assert re.fullmatch(r"training of code-review: ended after \d+ s", bar["data"]["text/plain"])


def test_names_are_the_same_and_help_is_whole(outputs: dict[str, list[Any]]) -> None:
    assert data(outputs, "same")["text/plain"] == "(True, 'sdk.objects')"
    told = "".join(one["text"] for one in outputs["help"])
    assert all(word in told for word in ("Args:", "Returns:", "Raises:", "Example::", "verify_with"))


@pytest.mark.parametrize("optimised", [[], ["-O"]], ids=["", "-O"])
def test_the_next_step_of_a_pipeline_uses_its_own_configuration(
    outputs: dict[str, list[Any]], home: Path, optimised: list[str]
) -> None:
    (folder,) = outputs["folder"]
    program = (
        "import pickle, sys\n"
        "job, version, found = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(job.wait().result().ref, version.pull(sys.argv[2]).name, [one.ref for one in found], found[0].parents)"
    )
    env = processes.environment(HOME=str(folder), ADAPTERCTL_URL=f"local:{home}")
    to = folder / f"pulled{len(optimised)}"
    arguments = ["-c", program, str(folder / "step"), str(to)]
    if optimised:
        path = {"PYTHONPATH": str(PAGE.parents[1])}
        done = processes.finished(sys.executable, *optimised, *arguments, env={**env, **path}, cwd=folder)
    else:
        done = processes.run("python", *arguments, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"code-review@v2 {to.name} ['code-review@v2', 'code-review@v1'] []\n"
    assert (to / "adapter_model.safetensors").is_file()


def test_the_blocks_of_the_page_run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the order of the page, in one process, as somebody would who follows it.
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    program = "\n".join(block.replace("https://registry.example.com", f"local:{home}") for block in blocks)
    assert "registry.example.com" not in program
    env = processes.environment(HOME=str(tmp_path), ADAPTERCTL_URL=f"local:{home}")
    done = processes.run("python", "-c", program, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "code-review@v1" in done.stdout


def test_a_pickle_of_a_served_registry_s_job_has_no_token(tmp_path: Path) -> None:
    with registries.served(tmp_path / "served") as world:
        maker = Maker(world, tmp_path, layers=1)
        ref = maker.trained("code-review", steps=3).ref
        client: Client = world.writer
        token = client.config.token
        assert token
        version, job = client.get(ref), client.jobs()[0]
        version.pull(tmp_path / "here")
        stored = pickle.dumps([job, version, client.search(), version.evaluations])
        assert token.encode() not in stored
        assert world.url.encode() not in stored
        assert b"X-Amz" not in stored
        with pytest.raises(TypeError, match=r"sdk\.connect"):
            pickle.dumps(client)
