"""What people ask for by a command, done by a real worker, and seen by plain PEFT and transformers over what was pulled."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from sqlalchemy import select
from support import combining, merges, tiny, workplace
from support.trainings import save_jsonl
from support.workplace import Workplace

from registry.artifacts.models import ManifestBlob, ManifestRow
from registry.principal import Role
from sdk.cli import cli
from sdk.client import Client
from sdk.errors import InvalidInput
from sdk.pulling.cache import Cache
from sdk.pulling.cache_maintenance import entries
from sdk.schemas.wire import read

pytestmark = pytest.mark.slow
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace.opened(tmp_path_factory.mktemp("commands")) as place:
        yield place


@pytest.fixture
def run(place: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("ADAPTERCTL_URL", place.world.url)
    monkeypatch.setenv("ADAPTERCTL_TOKEN", place.world.token(Role.WRITER))
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_versions_are_combined_by_the_command(place: Workplace, run: Run, tmp_path: Path) -> None:
    base = tiny.save_llama(tmp_path / "base")
    one = combining.save(base, tmp_path / "one", 1)
    other = combining.save(base, tmp_path / "other", 2, r=3, use_rslora=True, target_modules=["q_proj"])
    for name, folder in (("one", one), ("other", other)):
        place.client.push(folder, name, base=place.base.id, method="lora")
    with place.worker("--queue", "cpu", forks=True):
        done = run("combine", "mix", "one=0.7", "other@v1=-0.3")
        assert (done.exit_code, done.stdout) == (0, "mix@v1\n"), done.stderr
        cut = run("combine", "mix", "one@v1=0.7", "other@v1=-0.3", "--method", "svd", "--rank", "2", "--format", "json")
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


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([[1, 5, 9, 42, 7]])).logits


def test_a_merged_model_is_registered_by_the_command_and_pulled(place: Workplace, run: Run, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny.save_llama(tmp_path / "base")
    adapter = merges.save_adapter(base, tmp_path / "adapter", r=3, lora_alpha=4, target_modules=["q_proj", "up_proj"])
    place.client.push(adapter, "code", base=place.base.id, method="lora")
    with place.worker("--queue", "cpu", forks=True):
        done = run("merge", "code", "--register", "code-merged")
        assert (done.exit_code, done.stdout) == (0, "code-merged@v1\n"), done.stderr
        again = run("merge", "code@v1", "--register", "code-merged", "-o", str(tmp_path / "merged"), "--format", "json")
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


def test_a_version_is_continued_by_the_command(place: Workplace, run: Run, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 4)
    quick = ("--data", str(rows), "--max-steps", "1", "--lr", "0.01")
    with place.worker(forks=True):
        first = run("train", "sql", "--base", place.base.id, "--method", "lora", "--rank", "2", "--use-dora", *quick)
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
        load_file(place.client.pull(ref, tmp_path / ref) / "adapter_model.safetensors") for ref in ("sql@v1", "sql@v2")
    )
    # One step of a new optimiser moves each number by the rate at most.
    moved = max(float(abs(after[name] - before[name]).max()) for name in before)
    assert 0 < moved <= 0.0101


CHAT = {
    "messages": [
        {"role": "user", "content": "And in Greek? 🙂"},
        {"role": "assistant", "content": "ηλιόλουστος", "weight": 0},
        {"role": "user", "content": "And as a picture?"},
        {"role": "assistant", "content": "🌞"},
    ]
}


def test_a_worker_shows_what_would_be_shown_here(
    place: Workplace, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_jsonl(tmp_path / "chat.jsonl", [CHAT for _ in range(4)])
    asked = ["preview", str(file), "--base", place.base.id, "--rows", "2", "--max-length", "128"]
    with place.worker("--queue", "cpu"), monkeypatch.context() as patched:
        found_spec = importlib.util.find_spec
        light = ("transformers", "jinja2", "trl", "pyarrow")
        patched.setattr("importlib.util.find_spec", lambda name: None if name in light else found_spec(name))
        done = run("data", *asked, "--format", "json")
    assert done.exit_code == 0
    first, *_ = done.stderr.splitlines()
    (job,) = (job for job in place.client.jobs() if job.view.kind == "preview")
    assert first == f"job {job.id} previews {job.view.subject}"
    shown = json.loads(done.stdout)
    assert [row["supervised_text"] for row in shown["rows"]] == ["🌞<|end|>"] * 2
    here = place.client.preview(file, base=tiny.save_llama(tmp_path / "tiny"), rows=2, max_length=128)
    assert read(type(here), shown) == here


def test_a_base_is_quantised_once_on_a_node(place: Workplace, tmp_path: Path) -> None:
    cache = tmp_path / "worker-cache"
    with place.worker(forks=True, ADAPTERCTL_CACHE=str(cache)):

        def used() -> bool:
            """Whether the only entry was used; from now on it counts as one that was not."""
            (entry,) = (entry for entry in entries(Cache(cache)) if entry.kind == "quantized")
            assert entry.digest == place.base.fingerprint
            os.utime(entry.path, (0, 0))
            return entry.used_s > 0

        digests = set()
        for _ in range(2):
            trained = place.client.job(place.submit(steps=2, method="qlora", lr=0.01)).wait()
            ref = str((trained.view.result or {})["ref"])
            digests.add(place.client.get(ref).digest)
            assert used()
        assert len(digests) == 1
        rows = tiny.write_rows(tmp_path / "rows.jsonl")
        assert place.client.submit_evaluation([ref], data=rows).wait().result()[0].precision == "nf4"
        assert used()
