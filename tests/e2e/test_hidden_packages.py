"""A folder of the user's own that is called like one of our packages: one sentence says which it is and where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import processes

from adapterctl_entry import hidden_packages


@pytest.fixture(params=["package", "module"])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder in which another `registry` lies."""
    folder = tmp_path / "project"
    folder.mkdir()
    if request.param == "package":
        (folder / "registry").mkdir()
        (folder / "registry/__init__.py").write_text("")
    else:
        (folder / "registry.py").write_text("")
    return folder


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = processes.environment(HOME=str(folder), ADAPTERCTL_URL=f"local:{folder / 'home'}", **env)
    return processes.finished(*command, env=variables, cwd=folder, timeout_s=120)


@pytest.mark.parametrize("script", ["adapterctl", "adapter-registry", "adapter-worker"])
@pytest.mark.parametrize("name", ["sdk", "registry", "workers"])
def test_a_script_says_what_hides_a_package_of_ours(tmp_path: Path, script: str, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = run(tmp_path, str(Path(sys.executable).with_name(script)), "--help", PYTHONPATH=str(tmp_path))
    assert done.returncode == 9
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / name} hides adapterctl's own package '{name}'; rename it")


def test_the_sdk_says_what_hides_the_registry(project: Path) -> None:
    (project / "script.py").write_text(
        "import sdk\ntry:\n    sdk.get('a')\nexcept sdk.Unavailable as error:\n    print(error)\n"
    )
    done = run(project, sys.executable, "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{project / 'registry'}")
    assert "hides adapterctl's own package 'registry'; rename it" in done.stdout


def test_a_folder_that_is_no_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    done = run(tmp_path, str(Path(sys.executable).with_name("adapterctl")), "list", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_scripts_run_in_a_folder_with_such_a_package(project: Path) -> None:
    done = run(project, str(Path(sys.executable).with_name("adapterctl")), "list", PYTHONPATH="")
    assert done.returncode == 0, done.stderr


def test_an_installation_of_links_hides_nothing(tmp_path: Path) -> None:
    # As some installers lay packages out: folders of their own, and each file a link to where it is kept.
    kept, site = Path(hidden_packages.__file__).parents[1], tmp_path / "site"
    for name in hidden_packages.PACKAGES:
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").symlink_to(kept / name / "__init__.py")
    (site / "adapterctl_entry").mkdir()
    for name in ("__init__.py", "hidden_packages.py"):
        (site / "adapterctl_entry" / name).symlink_to(kept / "adapterctl_entry" / name)
    script = "from adapterctl_entry import hidden_packages as h; print(h.__file__, h.hidden_package())"
    done = run(tmp_path, sys.executable, "-c", script, PYTHONPATH=str(site))
    assert done.stdout == f"{site / 'adapterctl_entry/hidden_packages.py'} None\n", done.stderr


def test_a_registry_in_this_process_needs_no_package_of_workers(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers/__init__.py").write_text("")
    (tmp_path / "script.py").write_text(f"import sdk\nprint(sdk.connect('local:{tmp_path / 'home'}').adapters())\n")
    done = run(tmp_path, sys.executable, "script.py")
    assert done.stdout == "[]\n", done.stderr
