"""A training that continues a version, as people ask for it: the command, a real worker, and plain PEFT over what was pulled."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from support import tiny, workplace

from registry.principal import Role
from sdk.cli import cli
from sdk.errors import InvalidInput

pytestmark = pytest.mark.slow


def test_a_version_is_continued_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save_llama(tmp_path / "base")
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 4)
    with workplace.opened(tmp_path / "place") as place:
        monkeypatch.setenv("ADAPTERCTL_URL", place.world.url)
        monkeypatch.setenv("ADAPTERCTL_TOKEN", place.world.token(Role.WRITER))
        monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(cli, arguments, catch_exceptions=False)

        quick = ("--data", str(rows), "--max-steps", "1", "--lr", "0.01")
        with place.worker(forks=True):
            first = run(
                "train", "sql", "--base", place.base.id, "--method", "lora", "--rank", "2", "--use-dora", *quick
            )
            assert (first.exit_code, first.stdout) == (0, "sql@v1\n"), first.stderr
            second = run("train", "sql", "--from", "sql", *quick, "--warmup-ratio", "0")
            assert (second.exit_code, second.stdout) == (0, "sql@v2\n"), second.stderr
        with pytest.raises(InvalidInput, match="sql@v1 keeps its rank, 2, when it is continued; leave rank out"):
            run("train", "sql", "--from", "sql@v1", *quick, "--rank", "3")
        shown = run("show", "sql@v2").stdout
        assert "continues" in shown
        assert "DoRA" in shown
        assert "sql@v1" in run("lineage", "sql@v2").stdout
        before, after = (
            load_file(place.client.pull(ref, tmp_path / ref) / "adapter_model.safetensors")
            for ref in ("sql@v1", "sql@v2")
        )
        # One step of a new optimiser moves each number by the rate at most.
        moved = max(float(abs(after[name] - before[name]).max()) for name in before)
        assert 0 < moved <= 0.0101
