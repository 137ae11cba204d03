"""A training that continues a version starts with exactly its matrices, and with an optimiser of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from support.architectures import save_model
from support.families import Case, save_base, save_rows
from support.trainings import Checkpoints, run_training

from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import fill, load_adapter
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

QUICK: dict[str, Any] = {
    "rank": 4, "lr": 0.02, "batch_size": 6, "grad_accum": 1, "dropout": 0.1, "max_steps": 2, "warmup_ratio": 0.0,
}  # fmt: skip
IDS = torch.tensor([[10, 20, 30, 40]])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "llama": save_model(folder / "llama", "llama"),
        "gpt2": save_base(folder / "gpt2", Case("GPT-2", "lora", "attention", "bfloat16", 1)),
    }


def run(base: Path, rows: Path, out: Path, **options: Any) -> TrainingReport:
    return run_training(base, rows, out, **{**QUICK, **options})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"method": "lora", "use_dora": True, "use_rslora": True, "alpha": 4.0, "rank_pattern": "q_proj=2"}),
        ("llama", {"method": "qlora", "quant_type": "fp4"}),
        ("gpt2", {"method": "lora", "bias": "all", "layers_to_transform": "1"}),
        ("gpt2", {"method": "lora", "modules_to_save": "ln_1"}),
    ],
    ids=["DoRA", "QLoRA", "biases", "whole"],
)
def test_it_starts_as_the_parent_ends_and_moves_from_there(
    bases: dict[str, Path],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
) -> None:
    import workers.pipelines.training.train as module

    base = bases[name]
    first = run(base, rows, tmp_path / "first", **options)
    parent: dict[str, Any] = {"parent": tmp_path / "first", "quantization": first.quantization}
    found: dict[str, Any] = {}
    true_load = module.load_parent

    def load(model: Any, given: Path) -> None:
        true_load(model, given)
        model.eval()
        with torch.no_grad():
            found["logits"] = model(input_ids=IDS, use_cache=False).logits.clone()

    monkeypatch.setattr(module, "load_parent", load)
    kept = Checkpoints(tmp_path / "kept", every_steps=1)
    second = run(base, rows, tmp_path / "second", **parent, seed=5, checkpoints=kept, **options)
    loaded = load_base(base, choose_device(), quantization=first.quantization)
    whose = load_adapter(loaded.model, tmp_path / "first")
    with torch.no_grad():
        assert torch.equal(found["logits"], whose(input_ids=IDS, use_cache=False).logits)
    # Two steps of an AdamW that starts anew, at 0.02 and less, move no number by more than both together.
    before, after = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("first", "second"))
    moved = [float((after[key] - before[key]).abs().max()) for key in before]
    assert 0 < max(moved) <= 0.0401
    assert second.lora == first.lora
    assert second.quantization == first.quantization
    # Another process goes on from a checkpoint of it.
    resume = Checkpoints(tmp_path / "unused", resume=tmp_path / "kept" / "step-00000001")
    run(base, rows, tmp_path / "again", **parent, seed=5, checkpoints=resume, **options)
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "second" / "adapter_model.safetensors"
    ).read_bytes()


def test_a_model_that_names_copies_of_its_matrices_is_found(bases: dict[str, Path], tmp_path: Path, rows: Path) -> None:
    """What is copied into copies changes nothing that is trained."""
    run(bases["llama"], rows, tmp_path / "first", method="lora", targets="q_proj")
    stored = load_file(tmp_path / "first" / "adapter_model.safetensors")
    model = load_adapter(load_base(bases["llama"], choose_device(), quantization=None).model, tmp_path / "first")
    fill(model, {name: tensor + 1 for name, tensor in stored.items()})
    moved = get_peft_model_state_dict(model)
    assert all(torch.equal(moved[name], tensor + 1) for name, tensor in stored.items())

    def copied(_module: Any, named: dict[str, Any], *_where: Any) -> None:
        named.update({name: tensor.clone() for name, tensor in named.items()})

    model.register_state_dict_post_hook(copied)
    with pytest.raises(PipelineError, match=r"4 of 4 adapter matrices did not take .* \(first: base_model\.model\."):
        fill(model, stored)


def test_a_parent_that_does_not_fit_is_refused(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    options = {"method": "lora", "targets": "q_proj"}
    run(bases["llama"], rows, tmp_path / "first", **options)
    parent = tmp_path / "first"
    for changed, said in (
        ({"rank": 8}, r"has r 4 in its adapter_config\.json, and the training 8"),
        ({"targets": "v_proj"}, "match no module of this base"),
        ({"use_dora": True}, "has use_dora False"),
    ):
        with pytest.raises(PipelineError, match=said):
            run(bases["llama"], rows, tmp_path / "out", parent=parent, **{**options, "alpha": 8.0, **changed})
    path = tmp_path / "first" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(3, 32)}, path, metadata={"format": "pt"})
    with pytest.raises(PipelineError, match=r"is \(3, 32\), and the training's \(4, 32\)"):
        run(bases["llama"], rows, tmp_path / "out", parent=parent, **options)
    path.write_bytes(b"nothing")
    with pytest.raises(PipelineError, match="of the version to continue can't be read"):
        run(bases["llama"], rows, tmp_path / "out", parent=parent, **options)


def test_a_checkpoint_of_another_parent_is_refused(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    options = {"method": "lora", "targets": "q_proj"}
    for seed in (1, 2):
        run(bases["llama"], rows, tmp_path / str(seed), seed=seed, **options)
    kept = Checkpoints(tmp_path / "kept", every_steps=1)
    run(bases["llama"], rows, tmp_path / "out", parent=tmp_path / "1", checkpoints=kept, **options)
    resume = Checkpoints(tmp_path / "unused", resume=tmp_path / "kept" / "step-00000001")
    for parent in (None, tmp_path / "2"):
        with pytest.raises(PipelineError, match="differs in the version to continue;"):
            run(bases["llama"], rows, tmp_path / "out", parent=parent, checkpoints=resume, **options)
    assert "parent" in json.loads((tmp_path / "kept" / "step-00000001" / "record.json").read_text())["configuration"]


def test_one_that_leaves_every_matrix_as_it_was_is_none(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    first = run(bases["llama"], rows, tmp_path / "first", method="lora")
    parent: dict[str, Any] = {"parent": tmp_path / "first", "quantization": first.quantization}
    with pytest.raises(PipelineError, match="left every matrix of the version that it continues") as refused:
        run(bases["llama"], rows, tmp_path / "second", **parent, method="lora", lr=1e-30)
    assert refused.value.reason == "untrained"
