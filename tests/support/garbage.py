"""What the garbage collector looks through: only what tests make, not the libraries that they import or the tests
themselves.

torch and transformers define half a million objects, and ten thousand tests some hundred thousand more. Each full
collection goes through all of them, and trainers and merges cause several in a test.
"""

from __future__ import annotations

import gc
import sys
import time

import pytest

#: How many modules any large library has.
_MANY = 100
#: The generation of a collection that looks through everything.
_ALL = 2
#: A collection that takes longer goes through a lot of objects that some test has left.
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
    """Everything that exists now stays."""
    _keep()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """What a test has imported stays too, and so does anything that it or an earlier one has left for good."""
    if len(sys.modules) >= _seen + _MANY:
        gc.collect()
    if _was_long:
        gc.collect()
        _keep()


def _collected(phase: str, about: dict[str, int]) -> None:
    """Keep what has been imported since, after a full collection has left only what is in use."""
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
