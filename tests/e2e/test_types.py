"""What the type checkers say of code that uses the installed SDK: of what the pages show, and of what is wrong."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest
from support import processes

import sdk

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TYPED = """
from pathlib import Path

import adapterctl
import sdk
from sdk import pull

training = sdk.submit_training("x", base="./base", data="rows.jsonl", rank=8, alpha=16, lr=1e-4, targets="qv")
watched = [sdk.submit_training("x", base="./base", data="rows.jsonl", eval_every=every) for every in (20, "10m")]
ref: str = training.wait().result().ref
pushed: sdk.Version = sdk.push("./adapter", "x", base="tiny", description="by hand")
evaluation = sdk.submit_evaluation([ref], data="rows.jsonl", generate_rows=4)
losses: list[float] = [score.metrics["loss"] for score in evaluation.result()]
merged: Path = sdk.submit_merge(ref, onto="auto").retry().result().save("./merged")
mixed: sdk.Version = sdk.submit_combine("mix", {ref: 0.7, "y@v1": -0.3}, method="svd", rank=8).result()
folder: Path = pull(ref, frozen=True)
secret: str = sdk.tokens.create("ci", {"team": "writer"}, days=30).secret
swept = sdk.sweep("x", base="./base", data="rows.jsonl", holdout=0.1, rank=[1, 2, 4], lr="1e-4..1e-3:log[5]", seeds=2)
winner: str | None = swept.wait(timeout=60, progress=lambda now: print(now.left_s)).winner
best: sdk.Version = swept.result()
sweeps: list[sdk.Sweep] = [sdk.sweeps.get(swept.id), *sdk.sweeps(state="running")]
running: list[str] = [job.id for job in sdk.jobs(state="running")]
found: list[sdk.Version] = sdk.search("rank = 8")
measured: dict[str, float] = found[0].metrics
named: list[str] = [*found[:3][0].aliases, found[0].base.id, *found[0].tags, *(parent.ref for parent in found[0].parents)]
waited: sdk.Version = training.wait(timeout=5, progress=True).result()
with sdk.connect("local:x") as client:
    adapters = adapterctl.adapters() + client.adapters()
again: sdk.Version = adapterctl.push("./adapter", "x", base="tiny")
try:
    training.wait(timeout=0.1)
except TimeoutError as late:
    print(late)
result = sdk.connect("local:x").job("abc").result()
if isinstance(result, sdk.Version):
    ref = result.ref
try:
    sdk.promote(ref, "production")
except sdk.Conflict as error:
    print(error.code)
"""
#: What a page may import beside the SDK, and the clean environment lacks: its names have any type.
ELSEWHERE = re.compile(r"""(?:module named|Import) "(?:peft|transformers)\b""")
WRONG = {
    "rnak": 'import sdk\n\nsdk.submit_training("x", base="./base", data="rows.jsonl", rnak=8)\n',
    "rank": 'import sdk\n\nsdk.submit_training("x", base="./base", data="rows.jsonl", rank="8")\n',
    "generate": 'import sdk\n\nsdk.submit_evaluation("x@v1", data="rows.jsonl", generate=8)\n',
    "ontoo": 'import sdk\n\nsdk.submit_merge("x@v1", ontoo="auto")\n',
    "dict": 'import sdk\n\nsdk.submit_combine("x", {"y@v1": "0.5"})\n',
    "frozzen": 'import sdk\n\nsdk.pull("x@v1", frozzen=True)\n',
    "save": 'import sdk\n\nsdk.submit_training("x", base="./base", data="rows.jsonl").result().save("./merged")\n',
    "revokke": 'import sdk\n\nsdk.tokens.revokke("abc")\n',
    "seedz": 'import sdk\n\nsdk.sweep("x", base="./base", data="rows.jsonl", rank=[1, 2], seedz=2)\n',
    "margin": 'import sdk\n\nsdk.sweep("x", base="./base", data="rows.jsonl", rank=[1, 2], margin="1 %")\n',
    "holdout": 'import sdk\n\nsdk.sweep("x", base="./base", data="rows.jsonl", rank=[1, 2], holdout=[0.1, 0.2])\n',
    "nope": "import adapterctl\n\nadapterctl.nope()\n",
    "puhs": 'import sdk\n\nsdk.puhs("./adapter", "x", base="tiny")\n',
}


def snippets() -> dict[str, str]:
    """The Python that the pages show, each as a program."""
    found = {}
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        ):
            found[f"{page.stem.lower()}_{number}"] = block if "import sdk" in block else f"import sdk\n\n{block}"
    return found | examples()


def examples() -> dict[str, str]:
    """The examples in the docstrings of the functions of `sdk`, each as a program."""
    texts = {name: inspect.getdoc(getattr(sdk.Client, name, sdk.connect)) or "" for name in [*sdk.__all__, "connect"]}
    return {
        f"example_{name}": f"import sdk\n\n{inspect.cleandoc(text.partition('Example::')[2])}\n"
        for name, text in texts.items()
        if "Example::" in text and (name == "connect" or hasattr(sdk.Client, name))
    }


@pytest.fixture(scope="module", params=["mypy", "basedpyright"])
def errors(request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a type checker of this environment says of all programs, over what is installed in the clean one."""
    arguments = {
        "mypy": [
            "--strict",
            "--no-incremental",
            "--no-pretty",
            "--no-error-summary",
            "--python-executable",
            str(python),
        ],
        "basedpyright": ["--level", "error", "--pythonpath", str(python)],
    }[request.param]
    folder = tmp_path_factory.mktemp("programs") / "all"
    folder.mkdir()
    for name, text in {**snippets(), "typed": TYPED, **WRONG}.items():
        (folder / f"{name}.py").write_text(text)
    done = processes.finished(
        str(Path(sys.executable).with_name(request.param)),
        *arguments,
        ".",
        env=processes.environment(HOME=str(folder.parent), PYTHONPATH=""),
        cwd=folder,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if re.search(r"\berror\b: ", line) or " - error: " in line]
    return [line for line in found if not ELSEWHERE.search(line)]


def test_what_the_pages_show_has_the_right_types(errors: list[str]) -> None:
    assert len(snippets()) >= 3
    assert len(examples()) >= 20
    assert not set(snippets()) & set(WRONG)
    assert [line for line in errors if not any(f"{name}.py:" in line for name in WRONG)] == []


def test_what_is_wrong_is_found(errors: list[str]) -> None:
    silent = [
        name
        for name in WRONG
        if not any(f"{name}.py:" in line and name in line.partition("error")[2] for line in errors)
    ]
    assert silent == []
