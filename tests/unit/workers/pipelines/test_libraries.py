"""The releases that a result depends on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from sdk.version import VERSION
from workers.pipelines.libraries import other_releases

OWN = {"adapterctl": VERSION, "python": platform.python_version()}
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version 12.3.0\n"
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build  (dvs-builder@U22)  Sat May 24\n"
)


@pytest.mark.parametrize(("said", "release"), [(CLOSED, "550.54.15"), (OPEN, "575.57.08")])
def test_the_driver_of_a_card_is_named(tmp_path: Path, said: str, release: str) -> None:
    (file := tmp_path / "version").write_text(said)
    assert other_releases(on_card=True, driver=file) == {**OWN, "driver": release}
    assert other_releases(on_card=False, driver=file) == OWN


@pytest.mark.parametrize("said", [None, "", "something else 1.2.3 "])
def test_a_driver_that_does_not_name_itself_is_left_out(tmp_path: Path, said: str | None) -> None:
    if said is not None:
        (tmp_path / "version").write_text(said)
    assert other_releases(on_card=True, driver=tmp_path / "version") == OWN
