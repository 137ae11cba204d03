"""Plain merges are planned without PEFT and transformers, exactly as with them, and everything else is left to these."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from support.merges import FAMILIES, Made, make, merge, settings, variants
from support.merges import save_adapter as save_peft_adapter
from support.tiny import save_tokenizer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
)

from sdk.cli.commands.merge import _module_for
from sdk.schemas.evaluation import MergeSpec
from sdk.schemas.lora_config import QuantizationRecipe
from workers.child.process import PARENT_VARIABLE
from workers.child.protocol import READY_VARIABLE
from workers.pipelines.merging.plain import plain
from workers.pipelines.merging.plain_blocks import _TOO_LARGE, PlainBlocks
from workers.pipelines.merging.plain_measuring import _Both, is_measured_here, measured
from workers.pipelines.merging.plain_model import _READ, _WITHOUT_EFFECT, plain_model
from workers.pipelines.merging.prepare import prepare
from workers.pipelines.merging.prepared import Prepared
from workers.pipelines.model.torch_tensors import TORCH_TYPES
from workers.pipelines.orders import MergeOrder

_PLAIN = ("llama", "llama-tied", "llama-biased", "mistral", "qwen3")


def config_of(folder: Path, name: str, **changes: Any) -> None:
    """Change settings in a config."""
    known = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(known | changes))


@pytest.mark.parametrize("family", _PLAIN)
@pytest.mark.parametrize(("variant", "dtype", "shards"), [("plain", "bfloat16", 3), ("rslora", "float32", 1)])
def test_plan_is_the_one_that_peft_and_transformers_make(
    family: str, variant: str, dtype: str, shards: int, tmp_path: Path
) -> None:
    require_the_same_plan(make(family, variant, tmp_path, dtype=dtype, shards=shards))


def make_qwen2(tmp_path: Path) -> Made:
    (base := tmp_path / "base").mkdir()
    save_tokenizer(base)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 300}
    config = Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    Qwen2ForCausalLM(config).save_pretrained(base)
    adapter = save_peft_adapter(base, tmp_path / "adapter", target_modules=["k_proj", "o_proj"], r=3, lora_alpha=4)
    return Made(base, adapter)


def test_plan_of_a_qwen2_is_the_same_although_its_config_says_nothing_of_its_biases(tmp_path: Path) -> None:
    require_the_same_plan(make_qwen2(tmp_path))


def require_the_same_plan(made: Made) -> None:
    ours = plain(made.base, made.adapter)
    theirs = prepare_alone(made)
    assert ours is not None
    for part in ("written", "target", "config", "dtype", "digest"):
        assert getattr(ours, part) == getattr(theirs, part)
    assert list(ours.changes.by_parameter.items()) == list(theirs.changes.by_parameter.items())
    assert (ours.changes.shapes, ours.changes.tied) == (theirs.changes.shapes, theirs.changes.tied)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(_PLAIN)))
def test_other_families_are_left_to_peft(family: str, tmp_path: Path) -> None:
    made = make(family, "plain", tmp_path)
    assert plain(made.base, made.adapter) is None


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("llama-biased", "plain", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Made], Made]:
    """Return a function that copies base and adapter, each time into other folders."""

    def copy(made: Made) -> Made:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return Made(*(Path(shutil.copytree(each, folder / each.name)) for each in (made.base, made.adapter)))

    return copy


@pytest.mark.parametrize("variant", sorted(variants("llama-biased").keys() - {"plain", "rslora"}))
def test_other_variants_are_left_to_peft(variant: str, llama: Made, tmp_path: Path) -> None:
    adapter = save_peft_adapter(llama.base, tmp_path / "adapter", **settings("llama-biased", variant))
    assert plain(llama.base, adapter) is None


@pytest.mark.parametrize(
    "change",
    [
        {"alpha_pattern": {"q_proj": 8}},
        {"bias": "lora_only"},
        {"fan_in_fan_out": True},
        {"a_setting_of_a_later_release": "on"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": 1},
        {"lora_alpha": float("nan")},
        {"lora_alpha": True},
        {"r": 4},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "o_proj", "v_proj"]},
        {"target_modules": ["q_proj", "o_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "o_proj", "self_attn"]},
        {"layers_to_transform": [0]},
        {"layers_to_transform": 0},
        {"monteclora_config": {}},
        {"velora_config": {}},
        {"use_bdlora": {}},
        {"kasa_config": {}},
        {"trainable_token_indices": []},
        {"lora_dropout": "none"},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"task_type": "SEQ_CLS"},
        {"peft_type": "IA3"},
    ],
    ids=lambda change: json.dumps(change),
)
def test_settings_that_may_mean_another_sum_are_left_to_peft(
    change: dict[str, Any], llama: Made, copied: Callable[[Made], Made]
) -> None:
    made = copied(llama)
    assert plain(made.base, made.adapter) is not None
    config_of(made.adapter, "adapter_config.json", **change)
    assert plain(made.base, made.adapter) is None


def test_settings_are_taken_for_none_only_where_peft_does_so(llama: Made, copied: Callable[[Made], Made]) -> None:
    made = copied(llama)
    written = json.loads((made.adapter / "adapter_config.json").read_text())
    taken = 0
    for name in sorted({each.name for each in fields(LoraConfig)} | {"a_setting_of_a_later_release"}):
        values: tuple[Any, ...] = (None, False, 0, "", [], {})
        for value in values:
            (made.adapter / "adapter_config.json").write_text(json.dumps(written | {name: value}))
            if (ours := plain(made.base, made.adapter)) is not None:
                assert ours.digest == prepare_alone(made).digest, (name, value)
                taken += 1
    assert taken > 20


def prepare_alone(made: Made) -> Prepared:
    return prepare(made.base, made.adapter, classes=None, onto="original", dtype=None, recipe=None)


@pytest.mark.parametrize(
    "rewritten",
    [
        lambda _text: b"[]",
        lambda _text: b"[" * 100_000,
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-8-sig"),
        # Longer than what PEFT is given.
        lambda text: text.encode() + b" " * 2**18,
    ],
)
def test_configs_that_peft_is_not_given_are_left_to_its_side(
    rewritten: Callable[[str], bytes], llama: Made, copied: Callable[[Made], Made]
) -> None:
    config = (made := copied(llama)).adapter / "adapter_config.json"
    config.write_bytes(rewritten(config.read_text()))
    assert plain(made.base, made.adapter) is None


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModelForCausalLM": "model.Model"}},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"attention_bias": False},
        {"mlp_bias": True},
        {"tie_word_embeddings": True},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 10**9},
        {"num_key_value_heads": 1},
        {"vocab_size": 200},
        {"dtype": "float64", "torch_dtype": None},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
    ids=lambda change: json.dumps(change),
)
def test_bases_whose_files_are_not_their_configs_are_left_to_transformers(
    change: dict[str, Any], llama: Made, copied: Callable[[Made], Made]
) -> None:
    made = copied(llama)
    config_of(made.base, "config.json", **change)
    assert plain(made.base, made.adapter) is None


def _altered(path: Path, alter: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    alter(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_tensors_too_many_or_too_few_are_left_to_peft(which: str, llama: Made, copied: Callable[[Made], Made]) -> None:
    file = {"base": "model.safetensors", "adapter": "adapter_model.safetensors"}[which]
    for alter in (
        lambda tensors: tensors.pop(max(tensors)),
        lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
        lambda tensors: tensors.update({max(tensors): torch.zeros(3, 5)}),
    ):
        made = copied(llama)
        _altered(getattr(made, which) / file, alter)
        assert plain(made.base, made.adapter) is None


def test_bases_with_other_numbers_than_floats_are_left_to_transformers(
    llama: Made, copied: Callable[[Made], Made]
) -> None:
    for name, dtype in (("model.norm.weight", torch.int8), ("model.layers.0.mlp.up_proj.weight", torch.float8_e4m3fn)):
        made = copied(llama)
        _altered(
            made.base / "model.safetensors",
            lambda tensors, name=name, dtype=dtype: tensors.update({name: tensors[name].to(dtype)}),  # type: ignore[misc]
        )
        assert plain(made.base, made.adapter) is None


def test_models_that_speak_or_stop_otherwise_than_their_base_are_left_to_transformers(
    llama: Made, copied: Callable[[Made], Made]
) -> None:
    for name, text in {
        "generation_config.json": '{"eos_token_id": [5]}',
        "chat_template.jinja": "{{ messages }}",
        "tokenizer.json": "{}",
    }.items():
        made = copied(llama)
        (made.adapter / name).write_text(text)
        assert plain(made.base, made.adapter) is None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        made = copied(llama)
        (made.base / name).write_text("{}" if name == "tokenizer.json" else '{"eos_token": null}')
        assert plain(made.base, made.adapter) is None


@pytest.mark.parametrize(
    "given",
    [
        {"spec": MergeSpec(measure=False, dtype="float32")},
        {"spec": MergeSpec(measure=False, quantize="nf4")},
        {"spec": MergeSpec(measure=False, onto="dequantized")},
        {"spec": MergeSpec(measure=False), "quantization": QuantizationRecipe()},
        {"spec": MergeSpec(measure=False), "labels": ["a", "b"]},
    ],
)
def test_orders_for_more_than_the_sum_are_never_plain(given: dict[str, Any]) -> None:
    plainest: dict[str, Any] = {"quantization": None, "labels": None, "spec": MergeSpec(measure=False)}
    where: dict[str, Any] = {"base": Path("base"), "adapter": Path("adapter")}
    assert MergeOrder(**where, **plainest).may_be_plain
    assert MergeOrder(**where, **(plainest | {"spec": MergeSpec()})).may_be_plain
    assert not MergeOrder(**where, **(plainest | given)).may_be_plain


_ALONE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from support.merges import merge
report = merge(*map(Path, sys.argv[1:4]), measure=False)
print(json.dumps([report.read_back.prompts, sorted({"torch", "transformers", "peft", "bitsandbytes"} & sys.modules.keys())]))
"""


def test_plain_merge_needs_no_peft_and_writes_the_same_bytes(llama: Made, tmp_path: Path) -> None:
    alone, measured = tmp_path / "alone", tmp_path / "measured"
    tests = Path(__file__).parents[4]
    words = [*map(str, (llama.base, llama.adapter, alone)), str(tests)]
    answer = subprocess.run([sys.executable, "-c", _ALONE, *words], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == ["not run: measure is off", []]
    assert merge(llama.base, llama.adapter, measured).read_back.prompts == "run"
    names = sorted(path.name for path in measured.iterdir())
    assert names == sorted(path.name for path in alone.iterdir())
    assert all((alone / name).read_bytes() == (measured / name).read_bytes() for name in names)


_WAITING = """
import sys
from workers.child.main import main
assert main() == 0
print(sorted({"torch", "transformers", "peft", "bitsandbytes"} & sys.modules.keys()), file=sys.stderr)
"""


def test_child_that_waits_for_such_a_merge_imports_none_of_the_libraries() -> None:
    environment = {**os.environ, READY_VARIABLE: "merging.merge"}
    environment.pop(PARENT_VARIABLE, None)
    ended = subprocess.run(
        [sys.executable, "-c", _WAITING],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("options", "module"),
    [
        ({"measure": False}, "merging.merge"),
        ({"measure": False, "onto": "original", "dtype": "auto"}, "merging.merge"),
        ({}, "merging.merge"),
        ({"measure": True}, "merging.merge"),
        ({"measure": False, "dtype": "float32"}, None),
        ({"measure": False, "quantize": "nf4"}, None),
    ],
)
def test_command_asks_for_what_a_plain_merge_needs_where_it_may_be_one(
    options: dict[str, Any], module: str | None
) -> None:
    assert _module_for(options) == module


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("family", [*_PLAIN, "llama3", "qwen2"])
def test_texts_go_through_a_model_as_through_transformers_and_peft(family: str, tmp_path: Path) -> None:
    if family == "qwen2":
        made = make_qwen2(tmp_path)
    else:
        made = make("llama" if family == "llama3" else family, "plain", tmp_path, dtype="bfloat16")
    if family == "llama3":
        config_of(made.base, "config.json", rope_parameters=_LLAMA3)
    plan = plain(made.base, made.adapter)
    assert plan is not None
    assert is_measured_here(plan, made.base)
    model = plain_model(plan.config, longest=32)
    assert model is not None
    ids = torch.tensor([[1, 5, 9, 30, 2, 7, 11], [3, 3, 8, 1, 9, 100, 17]])
    ours = torch.from_numpy(_Both(plan, plan.base).logits(model, ids.numpy()))
    base = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32).eval()
    with torch.no_grad():
        alone = base(ids).logits
        trained = PeftModel.from_pretrained(base, made.adapter).eval()(ids).logits
    assert float((trained - alone).abs().max()) > 0.1
    torch.testing.assert_close(ours, torch.stack([trained, alone]), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"a_setting_of_a_later_release": 1},
        {"hidden_act": "gelu"},
        {"pretraining_tp": 2},
        {"rms_norm_eps": 0.0},
        {"sliding_window": 8},
        {"layer_types": ["full_attention", "chunked_attention"]},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"rope_parameters": _LLAMA3 | {"factor": None}},
    ],
    ids=json.dumps,
)
def test_configs_that_may_mean_another_model_are_measured_by_transformers(
    change: dict[str, Any], llama: Made, copied: Callable[[Made], Made]
) -> None:
    made = copied(llama)
    plan = plain(made.base, made.adapter)
    assert plan is not None
    assert plain_model(plan.config, longest=32) is not None
    assert plain_model(plan.config | change, longest=32) is None


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_every_setting_of_these_models_is_known(config: Any) -> None:
    assert config().to_dict().keys() <= _READ | _WITHOUT_EFFECT


def test_prediction_of_a_written_weight_that_is_wrong_is_far(llama: Made, tmp_path: Path) -> None:
    right = merge(llama.base, llama.adapter, tmp_path / "out")
    assert right.read_back.prompts == "run"
    assert right.metrics["logit_kl_original"] < 1e-6
    _altered(
        tmp_path / "out" / "model.safetensors",
        lambda tensors: tensors.update({name: tensor * 1.5 for name, tensor in tensors.items() if "q_proj" in name}),
    )
    plan = plain(llama.base, llama.adapter)
    assert plan is not None
    assert measured(plan, llama.base, tmp_path / "out").distance.kl > 1e-3


@pytest.mark.parametrize(("rows", "columns", "rank"), [(16, 16, 1), (455, 576, 16), (31, 1536, 64), (17, 896, 128)])
def test_products_are_summed_as_torch_sums_them(rows: int, columns: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    b, a = (torch.randn(size, generator=generator) for size in ((rows, rank), (rank, columns)))
    assert (b.numpy() @ a.numpy()).tobytes() == torch.mm(b, a).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str, tmp_path: Path) -> None:
    numbers = torch.randn(64, 48, generator=torch.Generator().manual_seed(1)) * 2.0 ** torch.arange(-36, 12)
    halves = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 2**-24, 3 * 2**-25, -0.0, 0.0])
    numbers[0, :8] = halves
    rounded = PlainBlocks(None, None)._rounded(numbers.numpy().copy(), dtype)  # type: ignore[arg-type]
    expected = numbers.to(TORCH_TYPES[dtype]).contiguous().view(torch.uint8).numpy()
    assert rounded.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("dtype", "largest"), [("BF16", 0x7F7F7FFF), ("F16", 0x477FEFFF), ("F32", 0x7F7FFFFF)])
def test_numbers_are_too_large_from_the_first_that_is_rounded_to_an_infinity(dtype: str, largest: int) -> None:
    here, after = torch.tensor([largest, largest + 1], dtype=torch.int32).view(torch.float32)
    assert here.to(TORCH_TYPES[dtype]).isfinite()
    assert not after.to(TORCH_TYPES[dtype]).isfinite()
    assert float(here) < _TOO_LARGE[dtype] <= float(after)
