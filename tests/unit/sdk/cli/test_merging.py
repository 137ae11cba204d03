"""`merge`: how it ends, and what it says beside the folder."""

from __future__ import annotations

import json
from contextlib import nullcontext
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

    def submit_merge(self, ref: str, **given: Any) -> Any:
        return self._job


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, **about: Any) -> Any:
    job = SimpleNamespace(**{"id": "j1", "view": SimpleNamespace(subject="a@v1"), "error": None, **about})
    monkeypatch.setattr(command, "open_client", lambda: nullcontext(_Client(job)))
    monkeypatch.setattr(command, "watch_all", lambda jobs: None)
    return CliRunner().invoke(merge_command, arguments)


@pytest.mark.parametrize(
    ("reason", "kind", "code"), [("verification", VerificationFailed, 7), ("adapter", JobFailed, 6)]
)
def test_what_was_written_and_is_not_what_was_asked_for_ends_with_7(
    reason: str, kind: type[AdapterctlError], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = "job j1 failed: the bytes of q_proj are not those that were computed"
    done = run(monkeypatch, "a@v1", "-o", str(tmp_path / "out"), error=JobFailed(said, reason=reason))
    assert type(done.exception) is kind
    assert (str(done.exception), done.exception.exit_code) == (said, code)


class _Saving:
    @property
    def puller(self) -> _Saving:
        return self

    def save(self, manifest: Any, target: Path, *, beside: Any) -> Path:
        return target

    def model_card(self, merged: Any) -> str:
        return ""


def test_warnings_of_the_report_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = {"onto": "original", "dtype": "bfloat16", "warnings": ["Rounding took it."]}
    manifest: Any = SimpleNamespace(size_bytes=1, digest="d" * 64)
    registry: Any = _Saving()
    merged = MergedModel("a@v1", manifest, report, registry)
    done = run(monkeypatch, "a@v1", "-o", str(tmp_path / "out"), result=lambda: merged)
    assert done.exit_code == 0, done.exception
    assert "Rounding took it." in done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")


REPORT = {"onto": "original", "dtype": "bfloat16", "warnings": []}


@pytest.mark.parametrize("existing", [False, True])
def test_a_registered_model_is_said_by_its_ref(existing: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest: Any = SimpleNamespace(size_bytes=1, digest="d" * 64)
    registry: Any = _Saving()
    merged = MergedModel("a@v1", manifest, REPORT, registry, registered="m@v2", existing=existing)
    asked: dict[str, Any] = {}

    def submit(self: _Client, ref: str, **given: Any) -> Any:
        asked.update(given)
        return self._job

    monkeypatch.setattr(_Client, "submit_merge", submit)
    done = run(monkeypatch, "a@v1", "--register", "m", "--onto", "original", result=lambda: merged)
    assert (done.exit_code, done.stdout, asked) == (0, "m@v2\n", {"register": "m", "onto": "original"})
    assert ("the same bytes were there already" in done.stderr) is existing
    both = run(monkeypatch, "a@v1", "--register", "m", "-o", str(tmp_path / "out"), result=lambda: merged)
    assert both.stdout == f"{tmp_path / 'out'}\n"
    assert "registered as m@v2" in both.stderr
    said = json.loads(run(monkeypatch, "a@v1", "--register", "m", "--format", "json", result=lambda: merged).stdout)
    assert said == {"ref": "a@v1", "digest": "d" * 64, "version": "m@v2", "existing": existing, "report": REPORT}


def test_a_model_that_goes_nowhere_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, "a@v1")
    assert done.exit_code == 2
    assert "to a folder with -o DIR, or into the registry with --register NAME" in done.stderr
