"""The files of rows on their way to the registry: sent together, and left out where there is no room for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from support.scored_rows import CONDITIONS

from sdk.errors import QuotaExceeded
from sdk.schemas.evaluation import EvaluationReport, RowFile
from workers.child.protocol import OUT_FOLDER
from workers.kinds.attempt import Attempt
from workers.kinds.evaluation import _send_rows


@dataclass
class Desk:
    """What an attempt has of a registry, which may have no room."""

    folder: Path
    full: bool = False
    sent: list[tuple[Mapping[str, Path], str | None]] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    namespace: str = "team"

    @property
    def client(self) -> Desk:
        return self

    @property
    def uploader(self) -> Desk:
        return self

    @property
    def lease(self) -> Desk:
        return self

    @property
    def assignment(self) -> Desk:
        return self

    def finishing(self, _message: str) -> None:
        """Nobody listens."""

    def log(self, message: str) -> None:
        self.logged.append(message)

    def upload(self, sources: Mapping[str, Path], _doing: str, namespace: str | None) -> str:
        if self.full:
            raise QuotaExceeded("team has 9 of 9 bytes")
        self.sent.append((sources, namespace))
        return "session"


def report(digest: str | None) -> EvaluationReport:
    rows = None if digest is None else RowFile(digest=digest, size_bytes=1, rows=1)
    return EvaluationReport(metrics={"loss": 1.0}, precision="float32", rows=rows, conditions=CONDITIONS)


def send(desk: Desk, found: dict[int, EvaluationReport]) -> Any:
    return _send_rows(cast(Attempt, desk), found)


def test_each_file_is_sent_once_to_the_job_s_namespace(tmp_path: Path) -> None:
    desk, found = Desk(tmp_path), {0: report("a" * 64), 2: report("b" * 64), 3: report("a" * 64), 5: report(None)}
    assert send(desk, found) == "session"
    ((sources, namespace),) = desk.sent
    assert namespace == "team"
    out = tmp_path / OUT_FOLDER
    assert sources == {digest * 64: out / f"rows-{digest * 64}.jsonl.gz" for digest in "ab"}


def test_without_room_the_scores_are_handed_in_without_rows(tmp_path: Path) -> None:
    desk, found = Desk(tmp_path, full=True), {0: report("a" * 64)}
    assert send(desk, found) is None
    assert found == {0: report(None)}
    assert desk.logged == ["the scores by row are not stored: team has 9 of 9 bytes"]


def test_without_files_nothing_is_sent(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert send(desk, {0: report(None)}) is None
    assert desk.sent == []
