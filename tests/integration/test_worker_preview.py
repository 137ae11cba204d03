"""A preview as a job: a worker shows the very same as is shown where its libraries are installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import tiny, workplace

from registry.principal import Role
from sdk.cli.commands.data import data_command
from sdk.schemas.wire import read

pytestmark = pytest.mark.slow

CHAT = {
    "messages": [
        {"role": "user", "content": "And in Greek? 🙂"},
        {"role": "assistant", "content": "ηλιόλουστος", "weight": 0},
        {"role": "user", "content": "And as a picture?"},
        {"role": "assistant", "content": "🌞"},
    ]
}


def test_a_worker_shows_what_would_be_shown_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(CHAT) + "\n" for _ in range(4)))
    with workplace.opened(tmp_path / "place") as place:
        asked = ["preview", str(file), "--base", place.base.id, "--rows", "2", "--max-length", "128"]
        monkeypatch.setenv("ADAPTERCTL_URL", place.world.url)
        monkeypatch.setenv("ADAPTERCTL_TOKEN", place.world.token(Role.WRITER))
        monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
        with place.worker("--queue", "cpu"), monkeypatch.context() as patched:
            found_spec = importlib.util.find_spec
            light = ("transformers", "jinja2", "trl", "pyarrow")
            patched.setattr("importlib.util.find_spec", lambda name: None if name in light else found_spec(name))
            done = CliRunner().invoke(data_command, [*asked, "--format", "json"], catch_exceptions=False)
        assert done.exit_code == 0
        first, *_ = done.stderr.splitlines()
        (job,) = (job for job in place.client.jobs() if job.view.kind == "preview")
        assert first == f"job {job.id} previews {job.view.subject}"
        shown = json.loads(done.stdout)
        assert [row["supervised_text"] for row in shown["rows"]] == ["🌞<|end|>"] * 2
        here = place.client.preview(file, base=tiny.save_llama(tmp_path / "tiny"), rows=2, max_length=128)
        assert read(type(here), shown) == here
