"""Several datasets on the command line and in YAML become what they become in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.adapters import base_registration

from sdk.cli import cli
from sdk.client import Client


@pytest.mark.parametrize(
    ("flags", "yaml", "python"),
    [
        (["--data", "a.jsonl", "--data", "faq@v1"], "data: [a.jsonl, faq@v1]", ["a.jsonl", "faq@v1"]),
        (
            ["--data", "a.jsonl", "--weight", "3", "--data", "faq", "--weight", "0.5"],
            "data:\n  a.jsonl: 3\n  faq: 0.5",
            {"a.jsonl": 3, "faq": 0.5},
        ),
        (["--data", "a.jsonl"], "data: [a.jsonl]", "a.jsonl"),
    ],
)
def test_all_doors_ask_for_the_same(
    flags: list[str], yaml: str, python: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERCTL_URL", f"local:{tmp_path / 'home'}")
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_text(f'{{"prompt": "{name}", "completion": "b"}}\n')
    Path("a.yaml").write_text(yaml)
    client = Client()
    client.bases.register(base_registration())
    client.datasets.add("b.jsonl", name="faq")
    client.submit_training("a", base="tiny", data=python)
    for given in (flags, ["--config", "a.yaml"]):
        done = CliRunner().invoke(cli, ["train", "a", "--base", "tiny", *given, "--detach"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert ("data is the registered dataset faq@v1" in done.stderr) == (isinstance(python, (list, dict)))
    first, *others = [{**job.view.request, "template_date": None} for job in client.jobs()]
    assert len(others) == 2
    assert all(json.dumps(other, sort_keys=True) == json.dumps(first, sort_keys=True) for other in others)
    assert [source["weight"] for source in first.get("sources", ())] == (
        [] if isinstance(python, str) else [3.0, 0.5] if isinstance(python, dict) else [None, None]
    )
    client.close()
