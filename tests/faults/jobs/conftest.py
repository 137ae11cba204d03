"""One stack for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.jobs.stack import Stack, running


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    with running() as stack:
        yield stack
