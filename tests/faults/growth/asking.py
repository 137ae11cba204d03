"""A registry in this process, asked without a server: only what it does itself is counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support import registries
from support.adapters import base_registration, digest, save_adapter

from registry.app.openapi_examples import BODIES, PARAMETERS
from registry.principal import Role


class Desk:
    """A registry with something of everything, and tokens for all that it does."""

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        # Its server is for files alone.
        world = self._open.enter_context(registries.served(folder))
        self.folder = folder
        self.app = world.app
        self.client = world.client(Role.ADMIN)
        self._host = world.url.removeprefix("http://").encode()
        self._tokens = [world.token(role) for role in (Role.ADMIN, Role.WORKER)]
        self.bodies, self.variants, self.parameters = self._seed()

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return self.app.openapi()

    def _seed(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
        """Return bodies that lead somewhere, by operation, requests of jobs by kind, and parameters of paths."""
        client = self.client
        client.bases.register(base_registration())
        versions = [
            client.push(save_adapter(self.folder / f"adapter-{seed}", seed), "team/code-review", base="tiny")
            for seed in range(2)
        ]
        client.set_alias("team/code-review", "production", 1)
        rows = self.folder / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
        data = client.datasets.add(rows).digest
        base = {"id": "tiny"}
        jobs = {
            "training": {
                "adapter": "team/code-review",
                "base": base,
                "data": data,
                "spec": {"method": "lora", "rank": 2},
            },
            "evaluation": {"refs": ["team/code-review@v1"], "data": data, "spec": {}},
            "merge": {"ref": "team/code-review@v1"},
            "combine": {
                "parents": [{"ref": f"team/code-review@v{number}", "weight": 1.0} for number in (1, 2)],
                "adapter": "team/both",
            },
            "preview": {"base": base, "data": data, "request": {}},
        }
        requests = {kind: {"kind": kind, **said} for kind, said in jobs.items()}
        job = client.submit_training("team/code-review", base="tiny", data=rows, method="lora", rank=2)
        bodies = {
            name: _replaced(body, {"team/code-review@v3": "team/code-review@v1"}) for name, body in BODIES.items()
        }
        publication = {"adapter": "team/again", "manifest": versions[0].info.manifest, "lora": versions[0].info.lora}
        bodies["publish_version"] = json.loads(
            json.dumps(publication, default=lambda model: model.model_dump(mode="json"))
        )
        bodies["submit_job"] = {"request": requests["training"]}
        parameters = {name: str(value) for name, value in PARAMETERS.items()}
        parameters |= {"job_id": job.id, "digest": versions[0].digest, "data": data, "base": digest("tiny: base")}
        parameters |= {"ref": "team/code-review@v1", "adapter": "team/code-review", "name": "tiny"}
        return bodies, requests, parameters

    async def ask(
        self, method: str, path: str, *, body: bytes | None = None, query: str = "", as_worker: bool = False
    ) -> int:
        """Send a request, and take its answer; return the status."""
        path = path.format_map({name: quote(value, safe="") for name, value in self.parameters.items()})
        headers = [
            (b"host", self._host),
            (b"authorization", f"Bearer {self._tokens[as_worker]}".encode()),
            (b"content-length", str(len(body or b"")).encode()),
        ]
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method.upper(), "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
        }  # fmt: skip
        status, sent = 0, False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body or b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        await self.app(scope, receive, send)
        return status


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    """A copy of a body with other texts in it."""
    if isinstance(value, dict):
        return {key: _replaced(inner, known) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, known) for inner in value]
    return known.get(value, value) if isinstance(value, str) else value
