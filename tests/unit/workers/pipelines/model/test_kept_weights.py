"""Weights in 4 bits that are kept between attempts: the same bits as those that are made anew, or not used at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.architectures import save_model
from support.evaluated import score
from support.merges import merge
from support.processes import environment
from support.quantised import pack_base
from support.trainings import run_training

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.model import kept_weights
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.kept_weights import digest_of_model
from workers.pipelines.model.loading import LoadedBase, load_base
from workers.pipelines.model.packed import default_recipe

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")

NF4, FP4 = QuantizationRecipe(), QuantizationRecipe(type="fp4", double_quant=False)
WRITTEN, READ = "kept in 4 bits in the node's cache", "read in 4 bits from the node's cache"
DAMAGED = "the entry in the node's cache could not be used, and is made again"


def load(base: Path, kept: Path | None = None, recipe: QuantizationRecipe = NF4, **rest: Any) -> LoadedBase:
    return load_base(base, choose_device(), quantization=recipe, held="packed", kept=kept, **rest)


def entry_of(kept: Path) -> Path:
    """The only entry below a folder, beside which nothing but the lock lies."""
    (entry,) = (path for path in kept.iterdir() if path.name != ".lock")
    assert sorted(path.name for path in entry.iterdir()) == ["model.safetensors", "sha256"]
    return entry


def config_of(model: Any) -> dict[str, Any]:
    """A model's config but for how its weights are packed."""
    said: dict[str, Any] = model.config.to_dict()
    del said["quantization_config"]
    return said


@pytest.fixture
def kept(llama_base: Path, tmp_path: Path) -> Path:
    """A folder with an entry for the base."""
    assert load(llama_base, tmp_path / "kept").origin == WRITTEN
    return tmp_path / "kept"


@pytest.mark.parametrize(
    ("architecture", "recipe", "dtype"),
    [
        # Tied; biased, transposed weights; experts in one parameter; several parts; parameters that stay in float32.
        ("llama-tied", FP4, "float32"),
        ("gpt2", NF4, "bfloat16"),
        ("opt", NF4, "float16"),
        ("mixtral", NF4, "bfloat16"),
        ("gemma3-vision", NF4, "bfloat16"),
        ("qwen3.5", NF4, "bfloat16"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_kept_weights_is_the_same_bit_for_bit(
    architecture: str, recipe: QuantizationRecipe, dtype: Any, tmp_path: Path
) -> None:
    base, kept = save_model(tmp_path / "base", architecture), tmp_path / "kept"
    anew, first, second = (load(base, where, recipe, dtype=dtype) for where in (None, kept, kept))
    assert [each.origin for each in (anew, first, second)] == ["", WRITTEN, READ]
    assert len({digest_of_model(each.model) for each in (anew, first, second)}) == 1
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        assert torch.equal(anew.model(input_ids=ids).logits, second.model(input_ids=ids).logits)
    for said in ("dtype", "quantization", "held", "shares"):
        assert getattr(second, said) == getattr(first, said) == getattr(anew, said)
    assert second.model.name_or_path == anew.model.name_or_path == str(base)
    assert config_of(second.model) == config_of(anew.model)
    assert second.model.generation_config.to_dict() == anew.model.generation_config.to_dict()


def test_a_training_ends_with_the_same_bytes_and_says_the_same(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    reports, said = list[TrainingReport](), list[str]()
    for name, kept in (("anew", None), ("first", tmp_path / "kept"), ("second", tmp_path / "kept")):
        lines = list[str]()
        reports.append(train(llama_base, pairs, tmp_path / name, kept, lines.append))
        said += [line for line in lines if line.startswith("the base is held as ")]
    assert [WRITTEN in each for each in said] == [False, True, False]
    assert [READ in each for each in said] == [False, False, True]
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert len({(tmp_path / name / file).read_bytes() for name in ("anew", "first", "second")}) == 1
    measured = {"train_s", "tokens_per_s", "peak_memory_bytes", "forecast_bytes"}
    assert reports[0].training["base_weights"] == "wide"
    for other in reports[1:]:
        assert other.quantization == reports[0].quantization
        assert other.training == reports[0].training
        left_out = {name for name in other.metrics if name in measured or name.endswith("_per_s")}
        assert {**other.metrics, **dict.fromkeys(left_out, 0)} == {**reports[0].metrics, **dict.fromkeys(left_out, 0)}


def test_evaluations_and_merges_read_what_a_training_kept(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    kept, adapter, said = tmp_path / "kept", tmp_path / "adapter", list[str]()
    report = train(llama_base, pairs, adapter, kept, said.append)
    given: dict[str, Any] = {"quantization": report.quantization, "kept": kept}
    score(llama_base, pairs, adapter, **given, on_progress=lambda progress: said.append(progress.message or ""))
    assert sum(READ in each for each in said) == 1
    os.utime(entry_of(kept), (0, 0))
    merge(llama_base, adapter, tmp_path / "merged", **given)
    assert entry_of(kept).stat().st_mtime > 0


def train(base: Path, data: Path, out: Path, kept: Path | None, say: Callable[[str], None]) -> TrainingReport:
    spec = TrainingSpec(rank=4, max_steps=2, lr=0.02, batch_size=2, grad_accum=1, targets="q_proj,v_proj", seed=3)
    return run_training(base, data, out, spec=spec, kept=kept, on_progress=lambda progress: say(progress.message or ""))


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _weights(entry: Path) -> None:
    flip(entry / "model.safetensors", -1)


def _scale(entry: Path) -> None:
    """A bit of one scale, in the middle of the file."""
    with (entry / "model.safetensors").open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    flip(entry / "model.safetensors", 8 + header + 4)


def _header(entry: Path) -> None:
    flip(entry / "model.safetensors", 3)


def _cut(entry: Path) -> None:
    path = entry / "model.safetensors"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-100])


def _no_weights(entry: Path) -> None:
    (entry / "model.safetensors").unlink()


def _no_digest(entry: Path) -> None:
    (entry / "sha256").unlink()


def _other_digest(entry: Path) -> None:
    flip(entry / "sha256", 0)


@pytest.mark.parametrize("harm", [_weights, _scale, _header, _cut, _no_weights, _no_digest, _other_digest])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_entry_is_made_anew(llama_base: Path, kept: Path, harm: Callable[[Path], None]) -> None:
    whole = digest_of_model(load(llama_base).model)
    harm(entry_of(kept))
    found = load(llama_base, kept)
    assert found.origin == f"{DAMAGED}; {WRITTEN}"
    assert digest_of_model(found.model) == whole
    assert load(llama_base, kept).origin == READ
    entry_of(kept)


#: Loads a base, and is killed amid the writing of its weights.
_KILLED = """
import os, signal, sys
from pathlib import Path
from workers.pipelines.model import kept_weights
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import default_recipe

def half(tensors, path, metadata):
    save(tensors, path, metadata)
    os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)

save, kept_weights.save_file = kept_weights.save_file, half
load_base(Path(sys.argv[1]), choose_device(), quantization=default_recipe(choose_device()), kept=Path(sys.argv[2]))
"""


def test_what_a_killed_process_had_half_written_is_never_used(llama_base: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, str(llama_base), str(kept)], env=environment(), capture_output=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert sorted(path.name for path in kept.iterdir()) == [".lock", ".partial"]
    assert load(llama_base, kept).origin == WRITTEN
    entry_of(kept)


def test_another_attempt_that_writes_is_not_waited_for(llama_base: Path, kept: Path) -> None:
    shutil.rmtree(entry_of(kept))
    with (kept / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert load(llama_base, kept).origin == ""
        assert [path.name for path in kept.iterdir()] == [".lock"]
    assert load(llama_base, kept).origin == WRITTEN


def _full(target: Any, path: Path, metadata: Any) -> None:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", ["before", "amid"])
def test_a_full_disk_costs_the_entry_and_not_the_job(
    llama_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    kept, usage = tmp_path / "kept", shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        if at == "before":
            full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=70_000))
        else:
            full.setattr(kept_weights, "save_file", _full)
        found = load(llama_base, kept)
    why = "too little room on its disk" if at == "before" else os.strerror(errno.ENOSPC)
    assert found.origin == f"not kept in the node's cache ([Errno {errno.ENOSPC}] {why})"
    assert [path.name for path in kept.iterdir()] == [".lock"]
    assert digest_of_model(found.model) == digest_of_model(load(llama_base).model)


def test_a_folder_that_can_t_be_written_costs_the_entry_and_not_the_job(llama_base: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    assert load(llama_base, tmp_path / "kept" / "below").origin.startswith("not kept in the node's cache (")


def test_memory_that_runs_out_is_not_taken_for_damage(
    llama_base: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(model: Any) -> str:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(kept_weights, "digest_of_model", out_of_memory)
        with pytest.raises(MemoryError):
            load(llama_base, kept)
    assert load(llama_base, kept).origin == READ


def test_each_that_moves_a_bit_has_an_entry_of_its_own(
    llama_base: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def origin(recipe: QuantizationRecipe = NF4, **rest: Any) -> str:
        return load(llama_base, kept, recipe, **rest).origin

    assert origin() == READ
    assert origin(FP4) == WRITTEN
    assert origin(QuantizationRecipe(double_quant=False)) == WRITTEN
    assert origin(QuantizationRecipe(skipped_modules=["lm_head", "o_proj"])) == WRITTEN
    assert origin(dtype="float32") == WRITTEN
    # What a record has of a base that was held so is the same.
    recorded = load(llama_base).quantization
    assert recorded is not None
    assert recorded != NF4
    assert origin(recorded.model_copy(update={"library_version": "0.1"})) == READ
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert origin() == WRITTEN
    monkeypatch.setattr(kept_weights, "versions_of", lambda *names: dict.fromkeys(names, "9"))
    assert origin() == WRITTEN
    assert len([path for path in kept.iterdir() if path.is_dir()]) == 7


def test_what_is_stored_in_4_bits_in_8_bits_or_not_quantised_is_not_kept(llama_base: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert load(pack_base(llama_base, tmp_path / "packed"), kept).origin == ""
    assert load(llama_base, kept, classes=Classes(("yes", "no"), 0)).origin == ""
    assert load_base(llama_base, choose_device(), quantization=None, kept=kept).origin == ""
    assert load(llama_base, kept, default_recipe(choose_device(), "int8")).origin == ""
    assert not kept.exists()


def test_somebody_else_s_code_reads_what_is_kept(llama_base: Path, kept: Path) -> None:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    stored = load_file(entry_of(kept) / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    state = QuantState.from_dict(
        {key: value for key, value in stored.items() if key.startswith(f"{name}.")}, device=torch.device("cpu")
    )
    original = load_file(llama_base / "model.safetensors")[name]
    found = dequantize_4bit(stored[name], state).float()
    assert found.shape == original.shape
    assert float((found - original).abs().max()) < 0.2 * float(original.abs().max())
