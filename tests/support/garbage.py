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
_seen = 0


def pytest_configure() -> None:
    """Collect tests without looking for garbage among them."""
    gc.disable()


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
        _keep()


def _keep() -> None:
    global _seen
    gc.freeze()
    _seen = len(sys.modules)
