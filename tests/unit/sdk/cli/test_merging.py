"""`merge`: how it ends, and what it says beside the folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from sdk.cli.commands import merge as command
from sdk.cli.commands.merge import merge_command
from sdk.errors import AdapterctlError, JobFailed, VerificationFailed
from sdk.objects import MergedModel


class _Client:
    def __init__(self, job: Any) -> None:
        self._job = job

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit_merge(self, ref: str, **given: Any) -> Any:
        return self._job


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **about: Any) -> Any:
    job = SimpleNamespace(**{"id": "j1", "view": SimpleNamespace(subject="a@v1"), "error": None, **about})
    monkeypatch.setattr(command, "open_client", lambda: _Client(job))
    monkeypatch.setattr(command, "watch", lambda job: job)
    return CliRunner().invoke(merge_command, ["a@v1", "-o", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("reason", "kind", "code"), [("verification", VerificationFailed, 7), ("adapter", JobFailed, 6)]
)
def test_what_was_written_and_is_not_what_was_asked_for_ends_with_7(
    reason: str, kind: type[AdapterctlError], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = "job j1 failed: the bytes of q_proj are not those that were computed"
    done = run(monkeypatch, tmp_path, error=JobFailed(said, reason=reason))
    assert type(done.exception) is kind
    assert (str(done.exception), done.exception.exit_code) == (said, code)


def test_warnings_of_the_report_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Registry:
        def save_manifest(self, manifest: Any, target: Path, *, beside: Any) -> Path:
            return target

        def model_card(self, merged: Any) -> str:
            return ""

    report = {"onto": "original", "dtype": "bfloat16", "warnings": ["Rounding took it."]}
    manifest: Any = SimpleNamespace(size_bytes=1, digest="d" * 64)
    registry: Any = Registry()
    merged = MergedModel("a@v1", manifest, report, registry)
    done = run(monkeypatch, tmp_path, result=lambda: merged)
    assert done.exit_code == 0, done.exception
    assert "Rounding took it." in done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
