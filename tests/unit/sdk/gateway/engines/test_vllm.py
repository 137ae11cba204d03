"""Folders that are given to vLLM, and when they go; vLLM itself is tried in tests/contract/serving."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sdk.gateway.engines.vllm import VllmEngine

FILES = {"adapter_config.json", "adapter_model.safetensors"}


class _Loads(BaseHTTPRequestHandler):
    """Says what vLLM's routes for adapters say, and notes the files that it was given."""

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "base", "root": "base", "parent": None}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "lora_path" in body:
            self.server.seen.append({path.name for path in Path(body["lora_path"]).iterdir()})  # type: ignore[attr-defined]
        self._answer({})

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Loads)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_version_that_is_loaded_again_while_its_old_folder_is_removed_has_all_of_its_files(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shared = tmp_path / ("a" * 64), tmp_path / "shared"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    # No pair of matrices: nothing stands for the base beside it.
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    begun, may_end, remove = threading.Event(), threading.Event(), shutil.rmtree

    def slowly(path: Path, **options: Any) -> None:
        if any(Path(path).glob("*.json")):
            (Path(path) / "adapter_config.json").unlink()
            begun.set()
            may_end.wait(10)
        remove(path, **options)

    async def body() -> None:
        engine = VllmEngine(f"http://127.0.0.1:{server.server_port}", shared=shared, stay_s=0.0)
        shared.joinpath("adapterctl-serving").mkdir(parents=True)
        await engine.load("sql@v1", folder)
        await engine.release("sql@v1")
        monkeypatch.setattr(shutil, "rmtree", slowly)
        looking = asyncio.create_task(engine.loaded())
        await asyncio.to_thread(begun.wait, 10)
        await engine.load("sql@v1", folder)
        may_end.set()
        await looking
        (given,) = [path for path in shared.joinpath("adapterctl-serving").iterdir() if path.is_dir()]
        assert {path.name for path in given.iterdir()} == FILES
        assert server.seen == [FILES, FILES]  # type: ignore[attr-defined]
        await engine.close()

    asyncio.run(body())
