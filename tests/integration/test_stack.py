"""The whole path over the other side of each seam: HTTP, PostgreSQL, Celery over Valkey, S3 with identities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import processes, tiny
from support.fixtures import S3Place

import sdk
from sdk.client import Client

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Stack:
    """A registry with a worker, and where a user of it works."""

    url: str
    writer: str
    folder: Path
    worker_log: Path
    server_log: Path

    def client(self) -> Client:
        """A user of the registry, with a cache of their own."""
        return Client(self.url, self.writer, cache=self.folder / "user-cache")

    def explain(self) -> str:
        """The ends of both logs."""
        return f"{self.worker_log.read_text()[-6000:]}\n{self.server_log.read_text()[-3000:]}"


@pytest.fixture
def stack(postgres_database: str, empty_valkey_url: str, s3: S3Place, tmp_path: Path) -> Iterator[Stack]:
    """Server and worker as processes of their own, as a platform engineer starts them."""
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    server_env = processes.environment(
        REGISTRY_DATABASE_URL=postgres_database,
        REGISTRY_STORAGE_URL=s3.url,
        REGISTRY_S3_ENDPOINT_URL=s3.endpoint_url,
        REGISTRY_S3_REGION=s3.region,
        REGISTRY_BROKER_URL=empty_valkey_url,
        AWS_ACCESS_KEY_ID=s3.access_key,
        AWS_SECRET_ACCESS_KEY=s3.secret_key,
    )
    assert processes.run("adapter-registry", "db", "upgrade", env=server_env).returncode == 0
    tokens = {}
    for role in ("worker", "writer"):
        made = processes.run("adapter-registry", "token", "create", "--role", role, "--name", role, env=server_env)
        assert made.returncode == 0, made.stderr
        tokens[role] = made.stdout.strip()
    # A worker holds neither database nor storage credentials, and keeps a warm child unless it is told not to.
    worker_env = processes.environment(
        ADAPTER_WORKER_WARM="1",
        ADAPTERCTL_URL=url,
        ADAPTERCTL_TOKEN=tokens["worker"],
        ADAPTERCTL_CACHE=str(tmp_path / "node-cache"),
        REGISTRY_BROKER_URL=empty_valkey_url,
    )
    server_log, worker_log = tmp_path / "server.log", tmp_path / "worker.log"
    with processes.running(
        "adapter-registry", "serve", "--port", str(port), "--workers", "2", env=server_env, log=server_log
    ):
        processes.wait_until_healthy(url, log=server_log)
        with processes.running("adapter-worker", "start", "--name", "node-1", env=worker_env, log=worker_log):
            yield Stack(url, tokens["writer"], tmp_path, worker_log, server_log)


def test_train_evaluate_merge_pull(stack: Stack, request: pytest.FixtureRequest) -> None:
    base = tiny.save_llama(stack.folder / "tiny-llama")
    rows = tiny.write_rows(stack.folder / "rows.jsonl")
    client = stack.client()
    request.addfinalizer(client.close)

    with pytest.raises(sdk.InvalidBase, match="upload"):
        client.submit_training("counter", base=base, data=rows)
    uploaded = client.bases.add(base, upload=True)
    assert uploaded.uploaded

    job = client.submit_training(
        "counter",
        base="tiny-llama",
        data=rows,
        eval_data=rows,
        max_steps=3,
        batch_size=2,
        grad_accum=1,
        max_length=64,
        lr=1e-2,
    )
    try:
        job.wait(timeout=240)
    except sdk.AdapterctlError as error:
        raise AssertionError(f"{error}\n{stack.explain()}") from error
    version = job.result()
    assert isinstance(version, sdk.Version)
    assert version.ref == "counter@v1"
    assert version.lineage["base"]["fingerprint"] == uploaded.fingerprint
    assert version.lineage["job"] == {"id": job.id, "attempt": 1}
    assert job.view.worker == "node-1"
    phases = [event.progress.phase for event in job.events() if event.progress is not None]
    assert "train" in phases

    folder = client.pull("counter", stack.folder / "pulled")
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        ".adapterctl",
        "generation_config.json",
        "rendering.json",
    }

    scores = client.submit_evaluation(
        ["base:tiny-llama", "counter@v1"], data=rows, generate_rows=2, max_length=64
    ).result()
    assert isinstance(scores, list)
    assert [score.ref for score in scores] == ["base:tiny-llama", "counter@v1"]
    assert scores[1].metrics["loss"] != scores[0].metrics["loss"]
    assert version.evaluations[0].metrics["loss"] == scores[1].metrics["loss"]

    merged = client.submit_merge("counter@v1").result()
    assert isinstance(merged, sdk.MergedModel)
    model = merged.save(stack.folder / "merged")
    assert (model / "model.safetensors").is_file()
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"

    for log in (stack.server_log, stack.worker_log):
        text = log.read_text()
        assert "X-Amz-Signature" not in text
        assert stack.writer not in text
