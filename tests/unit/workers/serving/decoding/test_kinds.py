"""Each row of the table of kinds, against PEFT alone, with the base and a neighbour beside it, before and after."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import served
from support.architectures import save_model
from support.experts import save_experts
from support.served import Listener
from support.soak import MATRIX

from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import packed_modules
from workers.serving.decoding.errors import AdapterRefused
from workers.serving.decoding.kinds import TABLE, Outline, judge
from workers.serving.decoding.loop import DecodeLoop
from workers.serving.decoding.requests import DecodeQuestion, ServedPlacement

# What silences it where PEFT reads it is a context of filters, which is not of one thread alone.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SHARES, OWN_BATCH, OWN_BASE = ServedPlacement.SHARES_A_BATCH, ServedPlacement.OWN_BATCH, ServedPlacement.OWN_BASE
NF4 = QuantizationRecipe()
PROMPT, NEXT = (40, 41, 99, 120, 77), (33, 150, 60)
TOKENS = 5

#: What is tried: the base, the settings of the adapter, the kinds that it has beside "matrices", and its placement.
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...], ServedPlacement]] = {
    "linear": ("llama", {"target_modules": ["q_proj", "down_proj"]}, (), SHARES),
    "all linear, patterns": (
        "llama",
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"v_proj": 3},
            "use_rslora": True,
        },
        (),
        SHARES,
    ),
    "one layer": ("llama", {"layers_to_transform": [1]}, (), SHARES),
    "bias of B": ("llama", {"lora_bias": True}, (), SHARES),
    "embedding and head": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}, (), SHARES),
    "transposed": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}, (), SHARES),
    "DoRA": ("llama", {"use_dora": True}, ("magnitudes",), OWN_BATCH),
    "norms": ("llama", {"modules_to_save": ["input_layernorm"]}, ("saved modules",), OWN_BATCH),
    "head": ("llama", {"modules_to_save": ["lm_head"]}, ("saved modules",), OWN_BATCH),
    "tokens": ("llama", {"trainable_token_indices": [41, 60]}, ("tokens",), OWN_BATCH),
    "experts": (
        "mixtral",
        {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "target_modules": ["q_proj"]},
        ("experts",),
        OWN_BATCH,
    ),
    "attention over experts": ("mixtral", {}, (), SHARES),
    "all biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}, ("biases",), OWN_BASE),
    "biases of the adapted": ("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only"}, ("biases",), OWN_BASE),
    "whole embeddings": (
        "llama",
        {"target_modules": ["q_proj", "embed_tokens"], "whole": True},
        ("whole embeddings",),
        OWN_BASE,
    ),
    "more tokens": ("llama", {"target_modules": ["q_proj"], "grown": 5}, ("whole embeddings",), OWN_BASE),
    "added tokens": (
        "llama",
        {"grown": 2, "trainable_token_indices": [300, 301]},
        ("tokens", "added tokens"),
        OWN_BASE,
    ),
    "unknown": ("llama", {"unknown": True}, ("unknown",), OWN_BASE),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of each architecture, in float32."""
    folder = tmp_path_factory.mktemp("bases")
    made = {name: save_model(folder / name, name) for name in ("llama", "gpt2")}
    return {**made, "mixtral": save_experts("mixtral", folder / "mixtral")}


@pytest.fixture(scope="module")
def loops(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DecodeLoop]]:
    """A loop over each base, with a neighbour."""
    made = {}
    for name, base in bases.items():
        target = "c_attn" if name == "gpt2" else "v_proj"
        folder = tmp_path_factory.mktemp("neighbour")
        served.save_adapter(base, folder, seed=100, target_modules=[target], fan_in_fan_out=name == "gpt2")
        made[name] = DecodeLoop(base, dtype="float32")
        made[name].load("neighbour@v1", folder)
    yield made
    for loop in made.values():
        loop.close()


def _save(base: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """Save an adapter of a case; what PEFT alone answers for it is `_truth`'s."""
    settings = dict(settings)
    whole, unknown = settings.pop("whole", False), settings.pop("unknown", False)
    served.save_adapter(base, folder, seed=6, save_embeddings=whole, **settings)
    if settings.get("trainable_token_indices"):
        # Tokens beyond the base's come with a tokenizer.
        shutil.copy(base / "tokenizer.json", folder)
    if unknown:
        path = folder / "adapter_config.json"
        # A setting of a later release, which this one reads past.
        path.write_text(json.dumps({**json.loads(path.read_text()), "a_later_setting": 3}))
    return folder


def _ask(loop: DecodeLoop, *names: str | None) -> list[list[int]]:
    """Return the answers to two prompts of unequal length under each name, all asked at once."""
    answers = [(Listener(), Listener()) for _ in names]
    for name, pair in zip(names, answers, strict=True):
        for prompt, answer in zip((PROMPT, NEXT), pair, strict=True):
            loop.submit(DecodeQuestion(prompt, name, TOKENS), answer)
    return [[*first.wait(), *second.wait()] for first, second in answers]


def _truth(model: Any) -> list[int]:
    return [*served.alone(model, PROMPT, TOKENS), *served.alone(model, NEXT, TOKENS)]


#: Tried in a matrix alone: much like others.
SELDOM = ("one layer", "attention over experts", "biases of the adapted", "bias of B")


@pytest.mark.parametrize("case", [case for case in CASES if MATRIX or case not in SELDOM])
def test_a_kind_answers_as_peft_alone_and_changes_nobody(
    loops: dict[str, DecodeLoop], bases: dict[str, Path], tmp_path: Path, case: str
) -> None:
    family, settings, kinds, placement = CASES[case]
    loop, base = loops[family], bases[family]
    folder = _save(base, tmp_path / "adapter", settings)
    rows = None
    if settings.get("grown"):
        rows = served.rows_of(base) + settings["grown"]
    truth = _truth(served.plain(base, folder, rows))
    before = _ask(loop, None, "neighbour@v1")
    try:
        assert loop.load("case@v1", folder) is placement
        version = next(each for each in loop.versions() if each.name == "case@v1")
        assert version.kinds == ("matrices", *kinds)
        bare, answered, neighbour = _ask(loop, None, "case@v1", "neighbour@v1")
        assert answered == truth
        assert truth not in before
        assert [bare, neighbour] == before
    finally:
        loop.release("case@v1")
    assert _ask(loop, None, "neighbour@v1") == before
    assert before[0] == _truth(served.plain(base, None))


def test_every_row_of_the_table_is_tried() -> None:
    tried = {kind for _, _, kinds, _ in CASES.values() for kind in kinds} | {"matrices"}
    assert tried == {kind.name for kind in TABLE}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS writes no text; score it with: adapterctl eval"),
        ({"peft_type": "IA3"}, "isn't LORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do(change: dict[str, Any], words: str) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", **change}
    with pytest.raises(AdapterRefused, match=words):
        judge(Outline(config, [], 300))


def _copied(folder: Path, adapter: Path) -> Path:
    shutil.copytree(adapter, folder)
    return folder


def test_an_adapter_without_effect_is_refused(loop: DecodeLoop, adapters: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copied(tmp_path / "zero", adapters["a@v1"])
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: each * 0 if "lora_B" in name else each for name, each in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(AdapterRefused, match=r"changes nothing .*: adapterctl verify"):
        loop.load("zero@v1", folder)
    assert "zero@v1" not in [version.name for version in loop.versions()]


@pytest.mark.parametrize("damage", ["prefix", "missing", "cut", "empty", "shape", "nan"])
def test_a_damaged_adapter_is_refused_and_changes_nobody(
    loop: DecodeLoop, adapters: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copied(tmp_path / damage, adapters["a@v1"])
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    if damage == "prefix":
        tensors = {name.replace("model.layers", "layers"): each for name, each in tensors.items()}
    elif damage == "missing":
        tensors.popitem()
    elif damage == "shape":
        tensors = {name: each.repeat(2, 1) if "lora_B" in name else each for name, each in tensors.items()}
    elif damage == "nan":
        tensors = {name: each * float("nan") for name, each in tensors.items()}
    elif damage == "empty":
        tensors = {}
    save_file(tensors, weights, metadata={"format": "pt"})
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    before = _ask(loop, None, "a@v1", "a@v2")
    with pytest.raises(AdapterRefused, match=r"adapter|folder|finite"):
        loop.load("bad@v1", folder)
    assert _ask(loop, None, "a@v1", "a@v2") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 10**7}, "a rank of 10000000, and the matrices of its file at most 4"),
        ({"rank_pattern": {"v_proj": 10**9}}, "a rank of 1000000000, and"),
        ({"trainable_token_indices": [10**9]}, "can't be loaded on this base"),
        ({"layers_to_transform": 10**9}, "can't be loaded on this base"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 10**9}}, "can't be"),
    ],
)
def test_a_config_with_a_billion_of_something_is_refused_before_it_takes_memory(
    bases: dict[str, Path], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = served.save_adapter(bases["llama"], tmp_path / "adapter", seed=6)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    model = load_base(bases["llama"], choose_device(), quantization=None).model
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PipelineError, match=words):
        load_adapter(model, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + 200_000


@pytest.mark.parametrize("held", ["wide", "packed"])
def test_a_dora_over_four_bits_answers_as_over_the_same_weights_made_wide(
    bases: dict[str, Path], tmp_path: Path, held: Any
) -> None:
    # Plain PEFT doesn't, on a processor with AVX512-BF16: there bitsandbytes repacks a weight in its first pass, and PEFT then takes the
    # norms of what it reads as if it weren't.
    from bitsandbytes.functional import dequantize_4bit
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, folder = bases["llama"], tmp_path / "adapter"
    served.save_adapter(base, folder, seed=6, use_dora=True)
    model = load_base(base, choose_device(), quantization=NF4, dtype="float32", held=held).model
    packed = load_base(base, choose_device(), quantization=NF4, dtype="float32", held="packed").model
    wide = AutoModelForCausalLM.from_pretrained(base).eval()
    for name, module in packed_modules(packed):
        assert not module.support_avx512bf16_for_cpu
        wide.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    text = torch.tensor([PROMPT])
    with torch.inference_mode():
        bare = wide(input_ids=text).logits
        truth = PeftModel.from_pretrained(wide, folder).eval()(input_ids=text).logits
        model = load_adapter(model, folder)
        first, second = model(input_ids=text).logits, model(input_ids=text).logits
    assert torch.equal(first, second)
    torch.testing.assert_close(first, truth, atol=1e-4, rtol=1e-4)
    assert float((truth - bare).abs().max()) > 0.1
