"""What is looked through for garbage: only what tests make, not the libraries that they import and the tests themselves.

torch and transformers define half a million objects, and ten thousand tests some hundred thousand more. Each full collection
goes through all of them; trainers and merges ask for several a test.
"""

from __future__ import annotations

import gc
import sys

import pytest

#: Modules that a library of any size has.
_MANY = 100
#: The generation of a collection that looks through everything.
_ALL = 2
_seen = 0


def pytest_configure() -> None:
    """Collect tests without looking for garbage among them."""
    gc.disable()
    gc.callbacks.append(_collected)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is there now stays."""
    _keep()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """What a test has imported stays, too."""
    if len(sys.modules) >= _seen + _MANY:
        gc.collect()


def _collected(phase: str, about: dict[str, int]) -> None:
    """Keep what has been imported since, once everything was looked through and only what is used is left."""
    if phase == "stop" and about["generation"] == _ALL and len(sys.modules) >= _seen + _MANY:
        _keep()


def _keep() -> None:
    global _seen
    gc.freeze()
    _seen = len(sys.modules)
