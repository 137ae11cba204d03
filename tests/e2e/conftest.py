"""The wheel of this tree, and an environment in which nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import processes
from support.servers import of_run

ROOT = Path(__file__).parents[2]


def pip(*args: str, cwd: Path | None = None) -> None:
    """Run pip; show what it said where it fails."""
    command = [*args[:1], "-m", "pip", "--disable-pip-version-check", *args[1:]]
    done = processes.finished(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="session")
def wheel(request: pytest.FixtureRequest) -> Path:
    """The wheel of this tree, made once for a run."""

    def make(folder: Path) -> None:
        # In isolation it is built where an image is.
        quiet = ("--quiet", "--no-deps", "--no-build-isolation")
        pip(sys.executable, "wheel", *quiet, "--wheel-dir", str(folder), str(ROOT))

    (found,) = of_run(request.config).make_once("wheel", make).glob("*.whl")
    return found


@pytest.fixture(scope="session")
def python(wheel: Path, request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with the wheel and what it asks for, and no extra; made once for a run."""

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        pip(sys.executable, "--python", str(folder / "bin/python"), "install", "--quiet", "--no-compile", str(wheel))

    return of_run(request.config).make_once("clean", make) / "bin/python"
