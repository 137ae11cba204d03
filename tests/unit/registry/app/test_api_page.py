"""The page of the API at /docs loads nothing from another host."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from support import registries

from registry.app.application import create_app
from registry.http.paths import HEALTHZ
from registry.settings import Settings


def test_the_page_and_what_it_loads_come_from_this_server(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path / 'registry.sqlite3'}", storage_url="s3://adapters"))
    client = TestClient(app, base_url="http://127.0.0.1")
    page = client.get("/docs")
    assert page.status_code == 200
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page.text)
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(loaded) >= 2
    for path in loaded:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert len(answer.content) > 100
        if path.endswith(".css"):
            fetched = re.findall(r"""url\(["']?([^"')]+)""", answer.text)
            assert all(target.startswith(("data:", "#")) for target in fetched)
    assert client.get("/redoc").status_code == 404


def test_its_document_is_made_once_when_it_is_asked_for_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    def make_slowly(**given: Any) -> dict[str, Any]:
        made.append("once")
        began.set()
        assert go_on.wait(30)
        return get_openapi(**given)

    monkeypatch.setattr("registry.app.openapi.get_openapi", make_slowly)
    with registries.served(tmp_path) as world, ThreadPoolExecutor(2) as pool:
        # Nor for a method that is none.
        refused = httpx.put(f"{world.url}{HEALTHZ}", json={})
        assert (refused.status_code, refused.headers["Allow"], made) == (405, "GET", [])
        asking = [pool.submit(httpx.get, f"{world.url}/openapi.json", timeout=30) for _ in range(2)]
        try:
            assert began.wait(30)
            assert httpx.get(f"{world.url}{HEALTHZ}", timeout=10).status_code == 200
        finally:
            go_on.set()
        documents = [done.result().json() for done in asking]
    assert documents[0] == documents[1]
    assert HEALTHZ in documents[0]["paths"]
    assert made == ["once"]
