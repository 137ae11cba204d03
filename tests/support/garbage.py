"""What is looked through for garbage: only what tests make, not the libraries that they import and the tests themselves.

torch and transformers define half a million objects, and ten thousand tests some hundred thousand more. Each full collection
goes through all of them; trainers and merges ask for several a test.
"""

from __future__ import annotations

import gc
import sys
import time

import pytest

#: Modules that a library of any size has.
_MANY = 100
#: The generation of a collection that looks through everything.
_ALL = 2
#: A collection that takes longer goes through a hoard that some test has left.
_LONG_S = 0.1
_seen = 0
_began_s = 0.0
_was_long = False


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
    """What a test has imported stays, too, and what it or one before it has left for good."""
    if len(sys.modules) >= _seen + _MANY:
        gc.collect()
    if _was_long:
        gc.collect()
        _keep()


def _collected(phase: str, about: dict[str, int]) -> None:
    """Keep what has been imported since, once everything was looked through and only what is used is left."""
    global _began_s, _was_long
    if about["generation"] != _ALL:
        return
    if phase == "start":
        _began_s = time.thread_time()
        return
    _was_long = _was_long or time.thread_time() - _began_s > _LONG_S
    if len(sys.modules) >= _seen + _MANY:
        _keep()


def _keep() -> None:
    global _seen, _was_long
    gc.freeze()
    _seen, _was_long = len(sys.modules), False
