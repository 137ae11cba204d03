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

from sdk.formats.safetensors_header import TensorEntry, written_header
from sdk.gateway.engines.vllm import VllmEngine

#: The only token that it writes.
TOKEN = 7
FILES = {"adapter_config.json", "adapter_model.safetensors"}


class _Server(ThreadingHTTPServer):
    """A vLLM that gives every token the same log-probability, another one under each adapter."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        #: The files that it was given.
        self.seen: list[set[str]] = []
        #: What it has loaded, and from where.
        self.loaded: dict[str, str] = {}
        self.of_base = -1.0
        self.of_versions = -2.0
        #: The models that were asked to write.
        self.asked: list[str] = []

    def start_again(self, of_base: float) -> None:
        self.loaded.clear()
        self.of_base = of_base


class _Answers(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        adapters = [{"id": name, "root": root, "parent": "base"} for name, root in self.server.loaded.items()]
        self._answer({"data": [{"id": "base", "root": "base", "parent": None}, *adapters]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            self.server.asked.append(body["model"])
            value = self.server.of_versions if "@v" in body["model"] else self.server.of_base
            tokens = [f"token_id:{TOKEN}"] * body["max_tokens"]
            likely = [{token: value} for token in tokens]
            logprobs = {"tokens": tokens, "token_logprobs": [value] * len(tokens), "top_logprobs": likely}
            self._answer({"choices": [{"logprobs": logprobs}]})
            return
        if "lora_path" in body:
            self.server.seen.append({path.name for path in Path(body["lora_path"]).iterdir()})
            self.server.loaded[body["lora_name"]] = body["lora_path"]
        else:
            self.server.loaded.pop(body["lora_name"], None)
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
def server() -> Iterator[_Server]:
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def written(parent: Path, *modules: str) -> Path:
    """Write an adapter; without modules nothing can stand for the base next to it."""
    folder = parent / ("a" * 64)
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    names = [f"base_model.model.{module}.lora_{half}.weight" for module in modules for half in "AB"] or ["x"]
    entries = [TensorEntry(name, "F32", (4, 4), 64) for name in names]
    (folder / "adapter_model.safetensors").write_bytes(written_header(entries) + bytes(64 * len(entries)))
    return folder


@pytest.mark.parametrize("modules", [(), ("q_proj",)])
def test_scores_of_before_are_not_those_of_an_engine_that_was_started_again_or_a_version_that_was_loaded_again(
    modules: tuple[str, ...], server: _Server, tmp_path: Path
) -> None:
    folder, shared = written(tmp_path, *modules), tmp_path / "shared"

    async def body() -> None:
        engine = VllmEngine(f"http://127.0.0.1:{server.server_port}", shared=shared)
        shared.joinpath("adapterctl-serving").mkdir(parents=True)
        for number in (1, 2, 3):
            server.start_again(-number)
            server.of_versions = -10.0 * number
            assert await engine.score(None, [1], [TOKEN] * 2) == [-number] * 2
            await engine.load("sql@v1", folder)
            server.asked.clear()
            for _ in range(2):
                assert await engine.score(None, [1], [TOKEN] * 2) == [-number] * 2
                assert await engine.score("sql@v1", [1], [TOKEN] * 2) == [-10.0 * number] * 2
            # Through what stands for the base it is asked once.
            others = [name for name in server.asked if name != "sql@v1"]
            assert len(others) == (1 if modules else 2)
            assert server.asked.count("sql@v1") == 1
            # The next one has another file under the same name.
            server.of_versions -= 1
            await engine.release("sql@v1")
            await engine.load("sql@v1", folder)
            assert await engine.score("sql@v1", [1], [TOKEN] * 2) == [server.of_versions] * 2
        await engine.close()

    asyncio.run(body())


def test_a_version_that_is_loaded_again_while_its_old_folder_is_removed_has_all_of_its_files(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shared = written(tmp_path), tmp_path / "shared"
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
        assert server.seen == [FILES, FILES]
        await engine.close()

    asyncio.run(body())
