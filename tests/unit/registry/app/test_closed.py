"""A registry that is closed leaves nothing: a program that opens one folder after another keeps none of them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support import registries
from support.registries import World

from registry.http.paths import HEALTHZ, READYZ


def in_process(folder: Path) -> AbstractContextManager[World]:
    return registries.embedded(folder)


def served(folder: Path) -> AbstractContextManager[World]:
    return registries.served(folder)


@pytest.mark.parametrize("opened", [in_process, served])
def test_neither_the_application_nor_its_database_is_kept(
    opened: Callable[[Path], AbstractContextManager[World]], tmp_path: Path
) -> None:
    kept: list[Callable[[], object]] = []
    for n in range(4):
        with opened(tmp_path / str(n)) as world:
            for path in (HEALTHZ, READYZ, "/docs", "/openapi.json", "/api/v1/bases"):
                assert world.http.get(path).status_code == 200
            kept += [weakref.ref(world.app), weakref.ref(world.services.db)]
        del world
        # What the first imports is kept out of later collections (`support.garbage`), and so may be the first itself.
        gc.collect()
    # A loop that has ended may hold the last one until another runs.
    assert [found() for found in kept[2:-2]] == [None] * 4
