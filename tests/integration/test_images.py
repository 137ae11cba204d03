"""What builds the images, step by step in empty virtual environments: no container engine is needed for that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from support import deployment, processes
from support.waiting import wait_until

from deploy.supply import locks

pytestmark = pytest.mark.slow

STAGES = deployment.stages()


def shell(script: str, venv: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a RUN step as an image would, where `pip` and `python` are those of `venv`."""
    env = processes.environment(
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_COMPILE="1",
        PIP_PROGRESS_BAR="off",
        PATH=os.pathsep.join([str(venv / "bin"), os.environ["PATH"]]),
    )
    done = processes.finished("sh", "-euc", script, env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def new_environment(folder: Path) -> Path:
    """Make an empty virtual environment, whose `pip` is the one that runs here, compiled as it is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    program = folder / "bin/pip"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {folder}/bin/python "$@"\n')
    program.chmod(0o755)
    return folder


def installation(stage: str, wheels: Path) -> str:
    """Return the step that installs an image's programs, with its wheels elsewhere, beside what is locked for it."""
    (step,) = [rest for name, rest in STAGES[stage] if name == "RUN" and rest.startswith("pip install")]
    assert f"[{stage}]" in step
    assert "--require-hashes" in step
    assert ("COPY", f"deploy/requirements-{stage}.txt /wheels/") in STAGES[stage]
    assert f"!deploy/requirements-{stage}.txt" in deployment.ROOT.joinpath(".dockerignore").read_text().split()
    shutil.copy(deployment.ROOT / f"deploy/requirements-{stage}.txt", wheels)
    return step.replace("/wheels/", f"{wheels}/")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment for steps that install nothing."""
    return new_environment(tmp_path_factory.mktemp("empty") / "venv")


@pytest.fixture(scope="module")
def wheels(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage `build`: from nothing but what it copies, and that the build context has."""
    source, wheels = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("wheels")
    ignored = deployment.ROOT.joinpath(".dockerignore").read_text().split()
    assert "*" in ignored, "the context is what is listed"
    for name, rest in STAGES["build"]:
        if name == "COPY":
            *copied, target = rest.split()
            for item in copied:
                assert f"!{item}" in ignored, f"{item} is not in the build context"
                if (deployment.ROOT / item).is_dir():
                    shutil.copytree(
                        deployment.ROOT / item, source / target, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(deployment.ROOT / item, source / target)
    shell(deployment.only(STAGES["build"], "RUN").replace("/wheels", str(wheels)), empty, source)
    return wheels


@pytest.fixture(scope="module")
def registry_image(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the image `registry` has."""
    venv = new_environment(tmp_path_factory.mktemp("registry") / "venv")
    shell(installation("registry", wheels), venv, wheels)
    return venv


def test_the_registry_image_is_light_and_whole(registry_image: Path, tmp_path: Path) -> None:
    listed = shell("pip list --format json", registry_image, tmp_path).stdout
    names = {package["name"].lower() for package in json.loads(listed)}
    assert not names & {"torch", "transformers", "peft", "trl", "bitsandbytes", "triton"}
    assert {"fastapi", "celery", "boto3", "psycopg"} <= names
    assert "serve" in shell("adapter-registry --help", registry_image, tmp_path).stdout
    assert shell("adapterctl --version", registry_image, tmp_path).stdout.startswith("adapterctl ")


def test_the_registry_image_serves_and_says_that_it_is_healthy(registry_image: Path, tmp_path: Path) -> None:
    port = str(processes.free_port())
    health = deployment.exec_form(deployment.only(STAGES["registry"], "HEALTHCHECK").partition("CMD ")[2])
    check, serve = (
        [str(registry_image / "bin" / words[0]), *(word.replace("8080", port) for word in words[1:])]
        for words in (health, deployment.exec_form(deployment.only(STAGES["registry"], "CMD")))
    )
    env = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path}/registry.sqlite3", REGISTRY_STORAGE_URL=f"file://{tmp_path}/files"
    )
    migrate = [str(registry_image / "bin/adapter-registry"), "db", "upgrade"]
    assert subprocess.run(migrate, env=env, cwd=tmp_path, check=False).returncode == 0

    def healthy() -> bool:
        return subprocess.run(check, env=env, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert not healthy()
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(serve, env=env, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_until(lambda: healthy() or server.poll() is not None, (tmp_path / "log").read_text, 60)
        assert server.poll() is None, (tmp_path / "log").read_text()
    finally:
        server.terminate()
        server.wait(60)
    assert not healthy()


def test_the_worker_image_can_be_installed(wheels: Path, empty: Path, tmp_path: Path) -> None:
    # Only resolved: with CUDA's libraries it is several gigabytes. What the first half would have installed, the second
    # one does not find here, and is told to choose.
    whole = installation("worker", wheels).split(" && ")[1]
    held = locks.read("worker")
    (tmp_path / "held.txt").write_text("".join(f"{locked.requirement}\n" for locked in held))
    dry = f"pip install --dry-run --quiet --report {tmp_path}/report --constraint {tmp_path}/held.txt"
    shell(whole.replace("pip install", dry), empty, tmp_path)
    report = json.loads((tmp_path / "report").read_text())
    names = {item["metadata"]["name"].lower() for item in report["install"]}
    assert {"adapterctl", "torch", "transformers", "peft", "trl", "bitsandbytes", "celery"} <= names
    assert not names & {"sqlalchemy", "fastapi", "boto3", "psycopg"}, "a worker needs neither database nor store"
    # All else that it needs is locked, and is what the lock says, byte for byte.
    hashes = {locked.name: locked.hashes for locked in held if locked.holds_here}
    for item in report["install"]:
        name = canonicalize_name(item["metadata"]["name"])
        if name != "adapterctl" and not locks.belongs_to_torch(name):
            assert f"sha256:{item['download_info']['archive_info']['hashes']['sha256']}" in hashes[name], name
