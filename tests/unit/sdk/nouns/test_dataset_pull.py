"""A dataset arrives in its file whole or not at all, and goes on where it broke, as any blob does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fixtures import Limits
from support.ranges import Fault, RangeServer, range_server
from support.trainings import names_in

from sdk.errors import Unavailable, VerificationFailed
from sdk.nouns.datasets import DatasetsAPI
from sdk.pulling import streams
from sdk.pulling.http import HttpClient
from sdk.schemas.artifacts import DatasetView, Transfer

OLD, NEW = (hashlib.shake_256(which).digest(300_000) for which in (b"old rows", b"new rows"))


@dataclass
class Registry:
    """Says where the rows are that a name means now."""

    server: RangeServer
    path: str = "old"

    def call(self, method: str, path: str, reply: type[Any], **_: Any) -> Any:
        content = self.server.objects[self.path]
        sha256 = hashlib.sha256(content).hexdigest()
        assert (method, path) in (("GET", "/datasets/rows"), ("GET", f"/datasets/{sha256}/file"))
        if reply is Transfer:
            return Transfer(sha256=sha256, size_bytes=len(content), url=self.server.url(self.path))
        facts = {"format": "jsonl", "rows": 1, "shape": "text", "name": "rows", "created_at": datetime.now(UTC)}
        return DatasetView(digest=sha256, size_bytes=len(content), **facts)

    def pull(self, output: Path, *, overwrite: bool = False) -> None:
        registry: Any = SimpleNamespace(transport=self, http=HttpClient(), on_transfer=None)
        try:
            DatasetsAPI(registry).pull("rows", output, overwrite=overwrite)
        finally:
            registry.http.close()


@pytest.fixture
def registry(limits: Limits) -> Iterator[Registry]:
    limits(streams, FIRST_WAIT_S=0.001, TRIES=1)
    with range_server(old=OLD, new=NEW) as server:
        yield Registry(server)


def test_it_goes_on_at_the_byte_where_it_broke(registry: Registry, tmp_path: Path) -> None:
    registry.server.script = lambda _request: Fault(cut_after=123_456)
    with pytest.raises(Unavailable, match="it continues where it stopped"):
        registry.pull(tmp_path / "rows.jsonl")
    assert names_in(tmp_path) == ["rows.jsonl.partial", "rows.jsonl.partial.json"]
    registry.server.script = lambda _request: None
    registry.pull(tmp_path / "rows.jsonl")
    assert registry.server.requests[-1].begin == 123_456
    assert (names_in(tmp_path), (tmp_path / "rows.jsonl").read_bytes()) == (["rows.jsonl"], OLD)


def test_what_a_name_means_now_is_not_mixed_with_what_it_meant(registry: Registry, tmp_path: Path) -> None:
    registry.server.script = lambda _request: Fault(cut_after=123_456)
    with pytest.raises(Unavailable):
        registry.pull(tmp_path / "rows.jsonl")
    registry.server.script = lambda _request: None
    registry.path = "new"
    registry.pull(tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == NEW


def test_a_wrong_byte_leaves_what_was_there(registry: Registry, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    output.write_bytes(b"mine")
    registry.server.script = lambda _request: Fault(wrong_at=200_000)
    with pytest.raises(VerificationFailed, match="nothing was kept"):
        registry.pull(output, overwrite=True)
    assert (names_in(tmp_path), output.read_bytes()) == (["rows.jsonl"], b"mine")
    registry.server.script = lambda _request: None
    registry.pull(output, overwrite=True)
    assert output.read_bytes() == OLD
