"""A client, and its program in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny

import sdk.worker_program
from sdk.client import Client
from sdk.errors import AdapterctlError


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of an embedded registry."""
    client = Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "cache")
    yield client
    client.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tied embeddings."""
    return tiny.save_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Let something be called instead of the worker's program, from the call on."""
    return lambda program: monkeypatch.setattr(sdk.worker_program, "run_program", program)


@pytest.fixture
def here(instead: Callable[[Callable[..., Any]], None]) -> None:
    """Let what the program does be done in this process."""
    from workers.pipelines.exporting.program import export, request_of

    def run_program(_module: str, *, asked: bytes, timeout_s: float, **_: Any) -> dict[str, Any]:
        assert timeout_s > 60
        try:
            said: dict[str, Any] = json.loads(export(request_of(asked)).model_dump_json())
        except AdapterctlError as error:
            return {"refused": error.message, "code": error.code.value, "param": error.param}
        return said

    instead(run_program)
