"""A merged model that becomes a version: the command, a real worker, a fresh client, and plain transformers over what it pulled."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select
from support import merges, tiny, workplace

from registry.artifacts.models import ManifestBlob, ManifestRow
from registry.principal import Role
from sdk.cli import cli
from sdk.client import Client

pytestmark = pytest.mark.slow


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([[1, 5, 9, 42, 7]])).logits


def test_a_merged_model_is_registered_by_the_command_and_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny.save_llama(tmp_path / "base")
    adapter = merges.save_adapter(base, tmp_path / "adapter", r=3, lora_alpha=4, target_modules=["q_proj", "up_proj"])
    with workplace.opened(tmp_path / "place") as place:
        monkeypatch.setenv("ADAPTERCTL_URL", place.world.url)
        monkeypatch.setenv("ADAPTERCTL_TOKEN", place.world.token(Role.WRITER))
        monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
        place.client.push(adapter, "code", base=place.base.id, method="lora")

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(cli, arguments, catch_exceptions=False)

        with place.worker("--queue", "cpu", forks=True):
            done = run("merge", "code", "--register", "code-merged")
            assert (done.exit_code, done.stdout) == (0, "code-merged@v1\n"), done.stderr
            again = run(
                "merge", "code@v1", "--register", "code-merged", "-o", str(tmp_path / "merged"), "--format", "json"
            )
        said = json.loads(again.stdout)
        assert (said["version"], said["existing"], said["path"]) == ("code-merged@v1", True, str(tmp_path / "merged"))
        info = place.client.get("code-merged@latest").info
        assert (info.kind, info.base.fingerprint) == ("merged", place.base.fingerprint)
        assert [(one.ref, one.relation) for one in info.parents] == [("code@v1", "merged-from")]
        assert (info.training or {})["read_back_prompts"] == "run"
        assert info.metrics["logit_kl_original"] < 1e-6
        fresh = Client(place.world.url, place.world.token(Role.READER), cache=tmp_path / "other-cache")
        pulled = fresh.pull("code-merged@v1", tmp_path / "pulled")
        fresh.close()
        # What nothing changes is the base's own blob.
        tokenizer = next(file.sha256 for file in info.files if file.path == "tokenizer.json")
        with place.world.services.db.read() as session:
            held = session.scalars(select(ManifestRow.kind).join(ManifestBlob).where(ManifestBlob.sha256 == tokenizer))
            assert sorted(held) == ["base", "merged"]
        assert (pulled / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()

        one = AutoModelForCausalLM.from_pretrained(pulled, dtype=torch.float32)
        other = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        bare = logits(plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            by_peft = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
        assert torch.equal(logits(one), logits(other))
        assert torch.equal(logits(one), logits(by_peft))
        assert not torch.equal(logits(one), bare)
        assert AutoTokenizer.from_pretrained(pulled).encode("two and two")
        shown = run("show", "code-merged").stdout
        assert "code@v1 onto the original weights, in float32" in shown
        drawn = run("lineage", "code@v1", "--down").stdout
        assert drawn.splitlines()[1:] == ["└─ merged into code-merged@v1  merged model"]
