"""The page of the API at /docs loads nothing from another host."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.testclient import TestClient

from registry.app.application import create_app
from registry.settings import Settings


def test_the_page_and_what_it_loads_come_from_this_server(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path / 'registry.sqlite3'}", storage_url="s3://adapters"))
    client = TestClient(app)
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
