"""A combination as people ask for it: the command, a real worker, and plain PEFT over what was pulled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import combining, tiny, workplace

from registry.principal import Role
from sdk.cli import cli

pytestmark = pytest.mark.slow


def test_versions_are_combined_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.save_llama(tmp_path / "base")
    one = combining.save(base, tmp_path / "one", 1)
    other = combining.save(base, tmp_path / "other", 2, r=3, use_rslora=True, target_modules=["q_proj"])
    with workplace.opened(tmp_path / "place") as place:
        monkeypatch.setenv("ADAPTERCTL_URL", place.world.url)
        monkeypatch.setenv("ADAPTERCTL_TOKEN", place.world.token(Role.WRITER))
        monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
        for name, folder in (("one", one), ("other", other)):
            place.client.push(folder, name, base=place.base.id, method="lora")

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(cli, arguments, catch_exceptions=False)

        with place.worker("--queue", "cpu", forks=True):
            done = run("combine", "mix", "one=0.7", "other@v1=-0.3")
            assert (done.exit_code, done.stdout) == (0, "mix@v1\n"), done.stderr
            cut = run(
                "combine", "mix", "one@v1=0.7", "other@v1=-0.3", "--method", "svd", "--rank", "2", "--format", "json"
            )
        pulled = place.client.pull("mix@v1", tmp_path / "mix")
        said = combining.weighted([(0.7, combining.deltas(base, one)), (-0.3, combining.deltas(base, other))])
        assert combining.furthest(combining.deltas(base, pulled), said) <= 1e-6
        found = json.loads(cut.stdout)
        assert found["ref"] == "mix@v2"
        assert set(found["kept_energy"]) == set(said)
        assert f"{min(found['kept_energy'], key=found['kept_energy'].get)} keeps 0." in place.said(found["job"])
        shown = run("show", "mix@v2").stdout
        assert "svd: 0.7·one@v1 + -0.3·other@v1" in shown
        assert f"{found['metrics']['kept_energy']:.2%} of the energy kept" in shown
