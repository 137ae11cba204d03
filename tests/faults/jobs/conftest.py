"""One stack for all tests of this folder, with the machine to itself: leases of seconds end in it while others compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.jobs.stack import Stack, running


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    with running() as stack:
        yield stack
