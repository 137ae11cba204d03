"""Merged models in 4 bits are, tensor for tensor, what transformers saves of the merged model that it quantises itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors import safe_open
from support import merges
from support.architectures import save_model
from support.encoders import save_bert
from support.merges import FAMILIES, loaded, merge, save_adapter
from support.quantised import pack_base, unpacked
from transformers import AutoModelForCausalLM

from sdk.schemas.evaluation import MergeReport
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging import in_four_bits
from workers.pipelines.merging.four_bits import quantised
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import packed_modules

pytestmark = pytest.mark.filterwarnings("ignore")


def run(made: merges.Made, out: Path, *, quantize: Any = "nf4", **rest: Any) -> MergeReport:
    """Merge, and put it into 4 bits."""
    return merges.merge(made.base, made.adapter, out, quantize=quantize, **rest)


def tensors(folder: Path) -> dict[str, Any]:
    """Return the tensors of all files by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return found


@pytest.mark.parametrize(
    ("family", "variant", "shards"),
    [("llama", "plain", 1), ("llama-tied", "embeddings", 3), ("gpt2", "dora", 1), ("mixtral", "experts", 1)],
)
def test_it_is_what_transformers_saves(family: str, variant: str, shards: int, tmp_path: Path) -> None:
    made = merges.make(family, variant, tmp_path, dtype="bfloat16", shards=shards)
    run(made, tmp_path / "merged", quantize=None)
    report = run(made, tmp_path / "out")
    theirs = tensors(pack_base(tmp_path / "merged", tmp_path / "theirs"))
    ours = tensors(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name
    said, wanted = (
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"] for name in ("out", "theirs")
    )
    assert said == wanted
    assert report.quantized is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(list(packed_modules(model))) == report.quantized.weights > 0
    assert not any("lm_head" in name for name, _ in packed_modules(model))
    assert 0.05 < report.quantized.furthest < 0.15
    assert 0 <= report.metrics["logit_kl_nf4"] < 2
    assert report.metrics["logit_kl_nf4"] > report.metrics["logit_kl_original"]
    assert len(report.digests) == len(list((tmp_path / "out").glob("*.safetensors"))) == shards
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_it_can_be_merged_onto_again(tmp_path: Path) -> None:
    made = merges.make("llama", "plain", tmp_path, dtype="bfloat16")
    run(made, tmp_path / "out")
    again = merges.Made(tmp_path / "out", made.adapter)
    assert run(again, tmp_path / "again", quantize=None).onto == "dequantized"
    before, after = unpacked(tmp_path / "out"), tensors(tmp_path / "again")
    assert torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_the_head_of_a_classification_is_none_of_it(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base")
    adapter = _classifier(base, tmp_path / "adapter")
    report = run(merges.Made(base, adapter), tmp_path / "out", labels=["no", "yes"])
    assert report.quantized is not None
    names = {name for name in tensors(tmp_path / "out") if "quant_state" in name}
    assert names
    assert not any("classifier" in name for name in names)
    assert report.metrics["logit_kl_nf4"] < 1


def _classifier(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["classifier"])
    return merges.save_as_pushed(get_peft_model(model, config), folder)


@pytest.mark.parametrize("wrong", ["codes", "scales", "another weight", "a copy", "lost", "transposed"])
def test_what_is_written_wrong_is_found(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = merges.make("llama", "plain", tmp_path, dtype="bfloat16")
    name = "model.layers.1.self_attn.q_proj.weight"
    honest_write, honest_parts = in_four_bits._write, in_four_bits._parts

    def write(path: Path, parts: list[Any], metadata: Any) -> dict[str, str]:
        if wrong == "lost":
            parts = [part for part in parts if not part.name.startswith(name)]
        digests = honest_write(path, parts, metadata)
        if wrong in ("codes", "scales", "a copy"):
            flipped = {"codes": name, "scales": f"{name}.absmax", "a copy": "model.norm.weight"}[wrong]
            _flip(path, flipped)
        return digests

    def parts(source: Any, given: str, packed: Any, across: Any, *rest: Any) -> Any:
        if wrong == "another weight" and given == name:
            for part in honest_parts(source, name.replace("layers.1", "layers.0"), packed, across, *rest):
                yield in_four_bits._Part(part.name.replace("layers.0", "layers.1"), *list(vars(part).values())[1:])
        else:
            yield from honest_parts(source, given, packed, across | {name} if wrong == "transposed" else across, *rest)

    monkeypatch.setattr(in_four_bits, "_write", write)
    monkeypatch.setattr(in_four_bits, "_parts", parts)
    with pytest.raises(PipelineError, match="norm.weight" if wrong == "a copy" else "q_proj") as told:
        run(made, tmp_path / "out")
    assert told.value.reason is FailureReason.VERIFICATION
    assert not (tmp_path / "out").exists()


def _flip(path: Path, name: str) -> None:
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin, _ = json.loads(raw[8 : 8 + length])[name]["data_offsets"]
    raw[8 + length + begin] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("shape", [(64, 128), (300, 64), (33, 192), (48, 32), (31, 34)])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_rows_are_those_of_the_whole_weight(shape: tuple[int, int], double: bool, kind: Any) -> None:
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.2).bfloat16()
    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type=kind)
    whole = dequantize_4bit(packed, state)
    held = quantised(weight, QuantizationRecipe(type=kind, double_quant=double), torch.bfloat16)
    for begin, end in ((0, shape[0]), (0, 1), (7, 20), (shape[0] - 3, shape[0])):
        assert torch.equal(held.rows(begin, end), whole[begin:end])


@pytest.mark.parametrize(
    ("family", "stored"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("mixtral", False)]
)
def test_what_is_merged_onto_the_dequantised_base_is_what_a_loaded_model_holds(
    family: str, stored: bool, tmp_path: Path
) -> None:
    base = save_model(tmp_path / "plain", family)
    recipe = QuantizationRecipe(compute_dtype="bfloat16")
    model = load_base(base, choose_device(), quantization=recipe, held="packed", dtype="bfloat16").model
    wanted = {name: dequantize_4bit(each.weight.data, each.weight.quant_state) for name, each in packed_modules(model)}
    (first, *_) = FAMILIES[family][0]
    adapter = save_adapter(base, tmp_path / "adapter", r=2, target_modules=[first])
    onto = pack_base(base, tmp_path / "packed") if stored else base
    said = {"quantization": None if stored else recipe, "onto": "dequantized", "dtype": "float32"}
    merge(onto, adapter, tmp_path / "out", **said)
    found = loaded(tmp_path / "out")
    untouched = {name: weight for name, weight in wanted.items() if not name.endswith(first)}
    assert untouched
    assert len(untouched) < len(wanted)
    for name, weight in untouched.items():
        assert torch.equal(found[f"{name}.weight"], (weight.T if family == "gpt2" else weight).float()), name
