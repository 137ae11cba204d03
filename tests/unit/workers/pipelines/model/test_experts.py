"""Mixtures of experts: LoRA on stacked parameters, adapters of single experts, and what of a 4-bit base is in 4 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.evaluated import score
from support.experts import EXPERTS, LAYERS, SINGLE, save_experts, save_single_experts, save_wide_routers
from support.merges import Made, require_published
from support.merges import merge as merge_adapter
from support.packed_files import write_packed_base
from support.quantised import pack_base, unpacked
from support.trainings import run_training, whole_and_resumed
from support.weights import admitted

from registry.errors import Verification
from sdk.lora.adapter_config import lora_of
from sdk.lora.targets import unfit_targets
from sdk.schemas.evaluation import MergeReport
from sdk.schemas.events import Progress
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError
from workers.pipelines.model import loading
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.blueprint import read_packing
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SPEC = TrainingSpec(
    method="lora",
    rank=3,
    dropout=0.0,
    targets="q_proj,experts.gate_up_proj,mlp.experts.down_proj",
    max_steps=2,
    lr=0.02,
    batch_size=2,
    grad_accum=1,
)
IDS = torch.arange(24).view(2, 12)


@pytest.fixture(scope="module", params=sorted(SINGLE))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_experts(family, tmp_path_factory.mktemp(family))


def train(base: Path, data: Path, out: Path, spec: TrainingSpec = SPEC, **rest: Any) -> TrainingReport:
    return run_training(base, data, out, spec=spec, **rest)


def merge(base: Path, adapter: Path, out: Path, **options: Any) -> MergeReport:
    return merge_adapter(base, adapter, out, **{"dtype": "float32", **options})


def gated(adapter: Path, base: Path) -> list[str]:
    return admitted(adapter, base, lora_of(json.loads((adapter / "adapter_config.json").read_bytes())))


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(IDS.to(model.device)).logits.float().cpu()


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def test_no_pass_of_a_training_hands_out_what_routers_said(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, all that a layer computes twice would stay until the whole backward pass is over."""
    from workers.pipelines.data.heads import Head

    decoded, handed = Head._decoded, []

    def listening(self: Head, model: Any, batch: Any) -> Any:
        said = decoded(self, model, batch)
        if model.training:
            handed.append(sorted(name for name, value in said.rest.items() if value is not None))
        return said

    monkeypatch.setattr(Head, "_decoded", listening)
    train(base, pairs, tmp_path / "out")
    assert handed == [[]] * SPEC.max_steps


@pytest.mark.parametrize("targets", [SPEC.targets, "experts.down_proj"])
def test_a_training_of_experts_reloads_in_plain_peft_passes_admission_and_merges(
    base: Path, pairs: Path, tmp_path: Path, targets: str
) -> None:
    spec = SPEC.model_copy(update={"targets": targets})
    report = train(base, pairs, tmp_path / "adapter", spec)
    assert sorted(report.lora.target_modules + report.lora.target_parameters) == sorted(targets.split(","))
    assert all("experts" in name for name in report.lora.target_parameters)
    assert admitted(tmp_path / "adapter", base, report.lora) == []
    bare = logits(plain(base))
    theirs = PeftModel.from_pretrained(plain(base), tmp_path / "adapter").eval()
    expected = logits(theirs)
    assert not torch.equal(bare, expected)
    ours = load_adapter(load_base(base, choose_device(), quantization=None).model, tmp_path / "adapter")
    assert {parameter.dtype for name, parameter in ours.named_parameters() if "lora_" in name} == {torch.float32}
    torch.testing.assert_close(logits(ours), expected, rtol=0, atol=0)
    merged = merge(base, tmp_path / "adapter", tmp_path / "out")
    require_published(Made(base, tmp_path / "adapter"), tmp_path / "out", merged)
    assert merged.metrics["merged_modules"] == LAYERS * len(targets.split(","))
    assert weights(tmp_path / "out").keys() == weights(base).keys()
    torch.testing.assert_close(logits(plain(tmp_path / "out")), logits(theirs.merge_and_unload()), rtol=0, atol=1e-5)


def test_a_training_of_experts_that_stops_goes_on_to_the_same_bytes(base: Path, pairs: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"max_steps": 3})
    whole, resumed = whole_and_resumed(lambda out, **kept: train(base, pairs, out, spec, **kept), tmp_path)
    assert whole == resumed


# PEFT tells only modules that a pattern fits, and not the stacked parameters that it made this one for.
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
def test_an_adapter_of_single_experts_is_gated_scored_and_merged_expert_by_expert(
    family: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    adapter = save_single_experts(family, base, tmp_path / "adapter")
    assert gated(adapter, base) == []
    expected = logits(PeftModel.from_pretrained(plain(base), adapter).eval())
    ours = load_adapter(load_base(base, choose_device(), quantization=None).model, adapter)
    torch.testing.assert_close(logits(ours), expected, rtol=0, atol=0)
    scores = [score(base, pairs, each).metrics["loss"] for each in (None, adapter)]
    assert scores[0] != scores[1]
    require_published(Made(base, adapter), tmp_path / "out", merge(base, adapter, tmp_path / "out"))
    matrices, before, after = load_file(adapter / "adapter_model.safetensors"), weights(base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = 0
    for name, weight in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in matrices:
            changed += 1
            weight = weight + 6 / 3 * matrices[f"{prefix}.lora_B.weight"] @ matrices[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-5, msg=name)
    assert changed == LAYERS * (3 * EXPERTS + 1)
    # What PEFT saves of it anew is in the layout of stacked parameters, with the ranks in patterns.
    again = PeftModel.from_pretrained(plain(base), adapter)
    again.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    raw = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    # As a push does.
    del raw["megatron_core"]
    (tmp_path / "again" / "adapter_config.json").write_text(json.dumps(raw))
    assert gated(tmp_path / "again", base) == []


def test_an_adapter_that_lacks_an_expert_is_refused(family: str, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = save_single_experts(family, base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".experts.3." not in name}
    save_file(kept, adapter / "adapter_model.safetensors")
    with pytest.raises(Verification, match=r"no weights for .*\.experts\.3\..*PEFT joins a layer's experts"):
        gated(adapter, base)
    with pytest.raises(PipelineError) as caught:
        load_adapter(load_base(base, choose_device(), quantization=None).model, adapter)
    assert caught.value.reason == "adapter"


def test_experts_of_another_base_are_refused_by_admission(
    family: str, base: Path, pairs: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    report = train(base, pairs, tmp_path / "adapter")
    other = next(name for name in SINGLE if name != family)
    with pytest.raises(Verification, match="belongs to another base"):
        admitted(tmp_path / "adapter", save_experts(other, tmp_path_factory.mktemp(other)), report.lora)


def test_dropout_on_experts_is_refused_before_the_base_is_loaded(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_from_pretrained", lambda *given: pytest.fail("the base was loaded"))
    with pytest.raises(PipelineError, match="can't drop inputs; set dropout to 0") as caught:
        train(base, pairs, tmp_path / "adapter", SPEC.model_copy(update={"dropout": 0.05}))
    assert caught.value.reason == "spec"


@pytest.mark.parametrize("targets", ["experts.down_proj", "experts.down_proj,q_proj"])
@pytest.mark.parametrize("exclude", [r".*layers\.0\..*", "layers.0.mlp.experts", "layers.0.self_attn.q_proj"])
def test_nothing_is_excluded_beside_experts_by_the_files_or_by_the_model(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: str, exclude: str
) -> None:
    monkeypatch.setattr(loading, "_from_pretrained", lambda *given: pytest.fail("the base was loaded"))
    said = "experts.down_proj of the targets are stacked parameters; leave exclude out"
    shapes = {name: list(tensor.shape) for name, tensor in weights(base).items()}
    assert said in (unfit_targets(targets, shapes, exclude=exclude) or "")
    assert unfit_targets("q_proj", shapes, exclude=exclude) is unfit_targets(targets, shapes) is None
    with pytest.raises(PipelineError, match=said) as caught:
        train(base, pairs, tmp_path / "adapter", SPEC.model_copy(update={"targets": targets, "exclude": exclude}))
    assert caught.value.reason == "targets"


def test_experts_of_one_layer_are_named_by_it(base: Path, pairs: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"targets": "layers.1.mlp.experts.down_proj"})
    report = train(base, pairs, tmp_path / "adapter", spec)
    assert report.lora.target_parameters == [spec.targets]
    assert admitted(tmp_path / "adapter", base, report.lora) == []
    assert all(
        ".layers.1.mlp.experts." in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    )


@pytest.mark.parametrize("targets", ["q_proj,v_proj", "q_proj,experts.down_proj"])
def test_what_of_a_4_bit_base_is_in_4_bits_is_counted_said_and_kept(
    base: Path, pairs: Path, tmp_path: Path, targets: str
) -> None:
    seen: list[Progress] = []
    spec = SPEC.model_copy(update={"method": "qlora", "targets": targets})
    report = train(base, pairs, tmp_path / "adapter", spec, on_progress=seen.append)
    linear = [tensor for name, tensor in weights(base).items() if "self_attn" in name and "_proj" in name]
    numbers, everything = (sum(tensor.numel() for tensor in each) for each in (linear, weights(base).values()))
    assert report.metrics["base_nf4_parameters"] == numbers
    assert report.metrics["base_bfloat16_parameters"] == everything - numbers
    assert report.metrics["base_parameters"] == everything
    assert report.metrics["base_bfloat16_bytes"] == 2 * (everything - numbers)
    # Half a byte each, a byte for each 64, and 4 for each 256 of those, which in a small module are fewer.
    scales = sum(tensor.numel() // 64 + 4 * -(-tensor.numel() // 64 // 256) for tensor in linear)
    assert report.metrics["base_nf4_bytes"] == numbers / 2 + scales
    share = 100 * numbers / everything
    assert share < 20
    said = f"held as nf4 {share:.1f} %, bfloat16 {100 - share:.1f} % of {everything:,} parameters"
    assert any(said in (progress.message or "") for progress in seen)
    assert admitted(tmp_path / "adapter", base, report.lora) == []
    merge(base, tmp_path / "adapter", tmp_path / "out", quantization=report.quantization, onto="dequantized")
    before, after = weights(base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    # Experts that nothing was learnt of are the base's own, in the precision that they were trained beside.
    name = next(name for name in before if ".layers.0." in name and name.endswith(("w1.weight", "gate_proj.weight")))
    assert torch.equal(after[name], before[name].bfloat16().float())
    assert not torch.equal(after[name := "model.layers.0.self_attn.k_proj.weight"], before[name].bfloat16().float())


def test_a_stored_4_bit_base_keeps_its_experts_wide_and_is_merged_whole(
    family: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    packed = pack_base(base, tmp_path / "base")
    spec = SPEC.model_copy(update={"method": "qlora"})
    report = train(packed, pairs, tmp_path / "adapter", spec)
    assert admitted(tmp_path / "adapter", packed, report.lora) == []
    merge(packed, tmp_path / "adapter", tmp_path / "out")
    before, after = unpacked(packed), weights(tmp_path / "out")
    assert before.keys() == after.keys() == weights(base).keys()
    matrices = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name in (name for name in before if "v_proj" in name or "norm" in name):
        assert torch.equal(before[name].float(), after[name])
    name = "model.layers.1.self_attn.q_proj"
    update = 2 * matrices[f"base_model.model.{name}.lora_B.weight"] @ matrices[f"base_model.model.{name}.lora_A.weight"]
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"].float() + update, rtol=0, atol=1e-6)
    # Of an expert that no token came to nothing is learnt; the others' way down is each its own rows of A and columns of B.
    pattern, names = SINGLE[family]
    prefix = "base_model.model.model.layers.1.mlp.experts"
    a, b = matrices[f"{prefix}.lora_A.weight"], matrices[f"{prefix}.lora_B.weight"]
    assert b.any()
    for expert in range(EXPERTS):
        name = f"{pattern.format(layer=1, expert=expert, name=names[2])}.weight"
        update = 2 * b[:, expert::EXPERTS] @ a[3 * expert : 3 * expert + 3]
        torch.testing.assert_close(after[name], before[name].float() + update, rtol=0, atol=1e-6)


def test_experts_that_are_packed_one_by_one_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    folder = write_packed_base(tmp_path / "base", experts=True)
    with pytest.raises(PipelineError, match="packed one by one, which transformers can no longer load") as caught:
        read_packing(folder)
    assert caught.value.reason == "base"


@pytest.mark.parametrize("stored", [True, False], ids=["packed", "native"])
def test_routers_that_the_library_keeps_in_float32_are_loaded_and_merged_so(
    pairs: Path, tmp_path: Path, stored: bool
) -> None:
    base = save_wide_routers(tmp_path / "ernie")
    written = weights(base)
    if stored:
        base = pack_base(base, tmp_path / "base")
    theirs, ours = plain(base), load_base(base, choose_device(), quantization=None).model
    routers = [f"model.layers.{layer}.mlp.gate.weight" for layer in range(LAYERS)]
    for name in routers:
        assert ours.get_parameter(name).dtype == theirs.get_parameter(name).dtype == torch.float32
        assert torch.equal(ours.get_parameter(name).cpu(), written[name])
    embedding = ours.get_input_embeddings().weight
    assert embedding.dtype == (torch.bfloat16 if stored else theirs.get_input_embeddings().weight.dtype)
    spec = SPEC.model_copy(update={"method": "qlora" if stored else "lora", "targets": "q_proj"})
    train(base, pairs, tmp_path / "adapter", spec)
    merge(base, tmp_path / "adapter", tmp_path / "out", dtype="bfloat16")
    merged = weights(tmp_path / "out")
    for name in routers:
        assert torch.equal(merged[name], written[name])
    assert merged["model.embed_tokens.weight"].dtype == torch.bfloat16
