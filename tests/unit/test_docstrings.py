"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from functools import cache
from types import ModuleType

import pytest

import registry
import sdk
import workers


def _modules() -> list[str]:
    found = []
    for package in (sdk, registry, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("registry._migrations", "workers.entry.celery_")):
                found.append(module.name)
    return found


@cache
def _with_examples() -> list[tuple[str, ModuleType]]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    # These need libraries that not every environment has.
    heavy = ("workers.pipelines", "workers.trackers.to_")
    modules = [(name, importlib.import_module(name)) for name in _modules() if not name.startswith(heavy)]
    return [(name, module) for name, module in modules if any(test.examples for test in finder.find(module))]


@pytest.mark.parametrize(("name", "module"), _with_examples())
def test_the_examples_of_a_module_run(name: str, module: ModuleType) -> None:
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert not failed, name


def test_there_are_examples_at_all() -> None:
    assert len(_with_examples()) >= 8
