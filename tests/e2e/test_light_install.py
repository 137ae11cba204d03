"""The wheel alone: what it holds, that it is light, and what it says where an extra is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import processes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "trl", "sqlalchemy", "fastapi", "celery", "boto3", "numpy", "alembic")

#: Runs the entry point with the given arguments, then says what is loaded.
LOADED = """
import json, sys
sys.argv = ["adapterctl", *sys.argv[1:]]
status = None
if len(sys.argv) > 1:
    from sdk.cli import main
    try:
        main()
    except SystemExit as end:
        status = end.code
else:
    import sdk
print(json.dumps({"status": status, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.split("/")[0] for name in names}
    ours = {name for name in packages if not name.endswith(".dist-info")}
    assert ours == {"adapterctl", "adapterctl_entry", "sdk", "registry", "workers"}
    assert len(packages) == 6
    carried = {name.removeprefix("registry/_migrations/") for name in names if name.startswith("registry/_migrations/")}
    wanted = {
        path.relative_to(ROOT / "migrations").as_posix()
        for path in (ROOT / "migrations").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "env.py" in wanted
    assert carried == wanted
    pages = ROOT / "registry" / "web"
    shown = [path for part in ("templates", "static") for path in (pages / part).rglob("*") if path.is_file()]
    assert len(shown) > 10
    assert {path.relative_to(ROOT).as_posix() for path in shown} <= set(names)
    assert {"adapterctl/py.typed", "sdk/py.typed"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".sqlite3")) or "test" in name.split("/")[0]]


def test_the_base_install_is_light(python: Path) -> None:
    names = "import importlib.metadata as m, json; print(json.dumps([one.name.lower() for one in m.distributions()]))"
    done = processes.finished(str(python), "-I", "-c", names, check=True)
    installed = set(json.loads(done.stdout))
    assert {"adapterctl", "httpx"} <= installed
    assert not installed & set(HEAVY)


def run(python: Path, *args: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run with the environment of a new user, away from the source tree."""
    return processes.finished(
        str(python), *args, env={**processes.environment(HOME=str(home), PYTHONPATH=""), **env}, cwd=home
    )


# Here, where everything is installed: it is there and is not loaded. A clean environment would prove nothing of that.
@pytest.mark.parametrize("args", [[], ["--help"], ["--version"], ["train", "--help"], ["jobs", "--help"]])
def test_nothing_heavy_is_loaded_where_it_is_installed(args: list[str], tmp_path: Path) -> None:
    done = run(Path(sys.executable), "-c", LOADED, *args, home=tmp_path)
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert loaded["status"] in (None, 0)
    assert not {name.split(".")[0] for name in loaded["modules"]} & {*HEAVY, "registry", "workers"}
    if args in (["--help"], ["--version"]):
        assert not {name.split(".")[0] for name in loaded["modules"]} & {"httpx", "pydantic", "rich", "yaml"}
    if args:
        assert done.stdout.startswith(("Usage: adapterctl", "adapterctl 0"))


def test_a_registry_in_a_folder_wants_the_extra(python: Path, tmp_path: Path) -> None:
    adapterctl = python.with_name("adapterctl")
    env = processes.environment(HOME=str(tmp_path), ADAPTERCTL_URL="local:x")
    done = processes.finished(str(adapterctl), "list", env=env, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (9, "")
    assert "pip install 'adapterctl[local]'" in line
    assert os.listdir(tmp_path) == []


def test_the_clean_install_reaches_a_server_and_says_when_there_is_none(python: Path, tmp_path: Path) -> None:
    done = run(python, "-c", "import sdk; print(sdk.__all__[0])", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    adapterctl = str(python.with_name("adapterctl"))
    for args in (["--help"], ["train", "--help"], ["pull", "--help"]):
        assert run(python, adapterctl, *args, home=tmp_path).returncode == 0
    done = run(python, adapterctl, "list", home=tmp_path, ADAPTERCTL_URL="http://127.0.0.1:1")
    assert done.returncode == 9
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [(["adapter-registry", "serve"], "adapterctl[registry]"), (["adapter-worker", "start"], "adapterctl[worker]")],
)
def test_the_other_programs_name_their_extra(python: Path, tmp_path: Path, command: list[str], extra: str) -> None:
    env = processes.environment(
        HOME=str(tmp_path), ADAPTERCTL_URL="http://127.0.0.1:1", REGISTRY_BROKER_URL="redis://127.0.0.1:1/0"
    )
    script = str(python.with_name(command[0]))
    done = processes.finished(script, *command[1:], env=env, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 9
    assert f"pip install '{extra}'" in line
