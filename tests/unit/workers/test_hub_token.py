"""A worker fetches bases of a model hub for whoever asks: with its own token only those that it is told to."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes

COMMIT = "0" * 40
TOKEN = "hf_of-the-node"

OBTAIN = """
import sys
from sdk.errors import AdapterctlError
from sdk.schemas.work import BaseSource
from workers.bases import _from_hub
repository = sys.argv[1]
location = f"hf://{repository}@{'0' * 40}"
try:
    _from_hub(BaseSource(id=repository, revision="0" * 40, fingerprint=None, location=location))
except AdapterctlError as error:
    print(error.message)
"""


class _Gated(http.server.BaseHTTPRequestHandler):
    """A hub on which nothing may be seen, and which keeps what tokens it was sent."""

    tokens: list[str | None]

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            type(self).tokens.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - as the server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Gated.tokens = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gated) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("listed", "repository", "sent"),
    [
        ("", "meta-llama/gated", False),
        ("org/base", "meta-llama/gated", False),
        ("org/base, meta-llama/*", "meta-llama/gated", True),
        ("*", "meta-llama/gated", True),
    ],
)
def test_the_token_is_sent_for_what_is_listed(
    listed: str, repository: str, sent: bool, endpoint: str, tmp_path: Path
) -> None:
    env = processes.environment(
        HF_ENDPOINT=endpoint,
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / "hf-home"),
        HF_TOKEN=TOKEN,
        HOME=str(tmp_path),
        ADAPTER_WORKER_HUB_REPOSITORIES=listed,
    )
    done = subprocess.run(
        [sys.executable, "-c", OBTAIN, repository], env=env, capture_output=True, text=True, check=True
    )
    assert "ADAPTER_WORKER_HUB_REPOSITORIES" in done.stdout, done.stderr
    assert set(_Gated.tokens) == {f"Bearer {TOKEN}" if sent else None}
