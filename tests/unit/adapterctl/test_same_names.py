"""`adapterctl.NAME` is `sdk.NAME`: every name, and every module."""

from __future__ import annotations

import ast
import importlib
import pickle
import pkgutil
import sys
from pathlib import Path

import pytest
from support import processes

import adapterctl
import sdk
import sdk.errors

HERE = Path(sdk.__file__).parents[1]


def test_every_public_name_is_the_sdk_s() -> None:
    assert adapterctl.__all__ == sdk.__all__
    assert dir(adapterctl) == dir(sdk)
    assert [name for name in sdk.__all__ if getattr(adapterctl, name) is not getattr(sdk, name)] == []
    with pytest.raises(AttributeError, match="module 'adapterctl' has no attribute 'no_such_name'"):
        _ = adapterctl.no_such_name


def test_every_module_is_the_sdk_s() -> None:
    modules = [found.name.partition(".")[2] for found in pkgutil.walk_packages(sdk.__path__, "sdk.")]
    assert len(modules) > 150
    # Those of every day; the others are found by the same few lines.
    for name in [name for name in modules if "." not in name and "worker" not in name]:
        spec = importlib.import_module(f"sdk.{name}").__spec__
        assert importlib.import_module(f"adapterctl.{name}") is sys.modules[f"sdk.{name}"]
        assert sys.modules[f"sdk.{name}"].__spec__ is spec
        assert sys.modules[f"sdk.{name}"].__name__ == f"sdk.{name}"
    with pytest.raises(ModuleNotFoundError, match=r"adapterctl\.no_such_module"):
        importlib.import_module("adapterctl.no_such_module")
    with pytest.raises(ModuleNotFoundError, match=r"adapterctl\.errors\.deeper"):
        importlib.import_module("adapterctl.errors.deeper")


def test_what_is_raised_under_one_name_is_caught_under_the_other() -> None:
    with pytest.raises(importlib.import_module("adapterctl.errors").NotFound):
        raise sdk.NotFound("there is no adapter 'x'; list them with: adapterctl list")


def test_a_pickle_names_the_sdk() -> None:
    assert b"sdk.errors" in (stored := pickle.dumps(adapterctl.NotFound("gone; look elsewhere")))
    assert b"adapterctl" not in stored


def test_a_star_import_and_a_deep_one_work_in_a_new_process() -> None:
    program = (
        "import sys, adapterctl; before = len([name for name in sys.modules if name.startswith('sdk.')])\n"
        "import adapterctl.schemas.catalog as catalog; from adapterctl.errors import NotFound\n"
        "from adapterctl import *\n"
        "import sdk.schemas.catalog\n"
        "print(before, catalog is sdk.schemas.catalog, NotFound is sdk.NotFound, Client is sdk.Client)"
    )
    for optimised in ([], ["-O"]):
        done = processes.finished(sys.executable, *optimised, "-c", program, cwd=HERE, check=True)
        assert done.stdout == "1 True True True\n"


def test_an_import_says_what_hides_the_sdk(tmp_path: Path) -> None:
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "__init__.py").write_text("")
    program = "try:\n    import adapterctl\nexcept ImportError as error:\n    print(error)"
    env = processes.environment(PYTHONPATH=f"{tmp_path}:{HERE}")
    done = processes.finished(sys.executable, "-c", program, cwd=tmp_path, env=env, check=True)
    assert done.stdout.startswith(
        f"{tmp_path / 'sdk'} hides adapterctl's own package 'sdk'; rename it, or take {tmp_path}"
    )


def test_an_error_within_a_module_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    (finder,) = [one for one in sys.meta_path if type(one).__module__ == "adapterctl"]
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        finder.find_spec("adapterctl.statistics", None)


def test_the_package_has_no_code_of_its_own() -> None:
    tree = ast.parse(Path(adapterctl.__file__).read_text())
    assert {node.name for node in tree.body if isinstance(node, ast.ClassDef)} == {"_SameModules", "_Same"}
