"""Fixtures of these tests. A pulled folder is whole or says that it is not, and what a pull did not write is not touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.sdk.pulling.folders.helpers import CONFIG, ONE, TWO, make

from sdk.pulling.folder import replace_folder
from sdk.schemas.manifest import Manifest


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, Manifest]:
    return make(tmp_path / "cache/one", ONE)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Manifest]:
    return make(tmp_path / "cache/two", TWO)


@pytest.fixture
def pulled(tmp_path: Path, one: tuple[Path, Manifest]) -> Path:
    return replace_folder(one[0], tmp_path / "pulled", one[1])


@pytest.fixture
def renamed(tmp_path: Path) -> tuple[Path, Manifest]:
    content = {**ONE, "adapter_config.json": json.dumps(CONFIG)}
    source, manifest = make(tmp_path / "cache/renamed", content)
    return replace_folder(source, tmp_path / "renamed", manifest, base_name="my \u00e4 base"), manifest
