"""Whole models as GGUF files, held against transformers by llama.cpp itself, and by what is wrong with them on purpose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.architectures import save_model
from support.gguf_models import export_folder
from support.llama_cpp import LlamaCpp
from transformers import AutoModelForCausalLM, LlamaConfig

from sdk.errors import InvalidBase, InvalidInput, VerificationFailed
from sdk.exporting.gguf import config_of
from sdk.lora.gguf_models import longest_context, rope_of
from workers.pipelines.exporting import model as exporting
from workers.pipelines.exporting.gguf_file import WrittenGguf
from workers.pipelines.exporting.model import rope_factors

IDS = [5, 6, 7, 80, 99, 120, 33, 44, 200, 5, 9]
#: Positions far beyond the original ones of its scaling.
LONG = [5 + (7 * number) % 250 for number in range(100)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def transformers_says(folder: Path, ids: list[int]) -> tuple[Any, list[int]]:
    """Return log probabilities after a text, (vocab,) in float64, and 8 tokens that follow it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
        text = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=1)
    return logits.log_softmax(-1).numpy(), text[0, len(ids) :].tolist()


def reshaped(folder: Path, target: Path, **changed: Any) -> Path:
    """Copy a model's folder with another config, which says the same shapes."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changed.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("name", ["llama", "llama-tied", "llama-biased", "mistral", "qwen3"])
def test_llama_cpp_says_what_transformers_says(name: str, tmp_path: Path) -> None:
    base, out = save_model(tmp_path / name, name), tmp_path / "model.gguf"
    report = export_folder(base, out)
    expected, follows = transformers_says(base, IDS)
    served = LlamaCpp(out)
    assert np.abs(served.log_probabilities(IDS, 300) - expected).max() < 1e-5
    assert served.greedy(IDS, 8) == follows
    assert (report.dtype, report.rounding) == ("f32", 0.0)
    assert ("output.weight" in WrittenGguf(out).names) == (not config_of(base)["tie_word_embeddings"])


@pytest.mark.parametrize("rope", [LLAMA3, {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}])
def test_scaled_positions(rope: dict[str, Any], tmp_path: Path) -> None:
    base = reshaped(save_model(tmp_path / "plain", "llama"), tmp_path / "scaled", rope_parameters=rope)
    export_folder(base, tmp_path / "model.gguf")
    expected, follows = transformers_says(base, LONG)
    served = LlamaCpp(tmp_path / "model.gguf")
    assert np.abs(served.log_probabilities(LONG, 300) - expected).max() < 2e-5
    assert served.greedy(LONG, 8) == follows
    unscaled, _ = transformers_says(tmp_path / "plain", LONG)
    assert np.abs(unscaled - expected).max() > 1e-2


def test_the_factors_of_llama_3_are_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    said = {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, head_dim=64, rope_parameters=said)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 64, 2).float() / 64)
    ours = rope_factors(rope_of({"rope_parameters": said}), 64)
    assert ours is not None
    assert np.allclose((plain / theirs).numpy(), ours, rtol=1e-5)
    # As transformers 4 wrote it.
    old = {"rope_theta": 500000.0, "rope_scaling": {key: value for key, value in said.items() if key != "rope_theta"}}
    assert rope_of(old) == rope_of({"rope_parameters": said})


@pytest.mark.parametrize(("dtype", "kl"), [("f16", 1e-5), ("bf16", 1e-3)])
def test_narrower_numbers_are_the_nearest(dtype: Any, kl: float, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "qwen3")
    report = export_folder(base, tmp_path / "model.gguf", dtype=dtype)
    expected, _ = transformers_says(base, IDS)
    found = LlamaCpp(tmp_path / "model.gguf").log_probabilities(IDS, 300)
    assert 0.9 < report.rounding <= 1.0
    assert float((np.exp(expected) * (expected - found)).sum()) < kl
    written = WrittenGguf(tmp_path / "model.gguf")
    assert written.dtype("blk.0.attn_q.weight") == dtype
    assert written.dtype("blk.0.attn_q_norm.weight") == "f32"


def test_bfloat16_stays_as_it_is_and_shards_are_joined(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, tmp_path / "sharded" / name)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    report = export_folder(tmp_path / "sharded", tmp_path / "model.gguf")
    assert (report.dtype, report.rounding) == ("bf16", 0.0)
    rows = WrittenGguf(tmp_path / "model.gguf").rows("token_embd.weight")
    assert np.array_equal(rows, model.get_input_embeddings().weight.view(torch.uint16).numpy())


def test_a_mistral_with_a_window_is_for_texts_within_it(tmp_path: Path) -> None:
    base = reshaped(save_model(tmp_path / "plain", "mistral"), tmp_path / "window", sliding_window=64)
    report = export_folder(base, tmp_path / "model.gguf")
    assert WrittenGguf(tmp_path / "model.gguf").value("llama.context_length") == 64
    assert report.notes[:1] == [
        "the file gives a context of 64 tokens, which is the model's sliding window, since llama.cpp has none for Mistral"
    ]


def test_a_folder_without_a_chat_template_or_without_safetensors(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    (base / "chat_template.jinja").unlink(missing_ok=True)
    (note,) = export_folder(base, tmp_path / "model.gguf").notes
    assert note.startswith("the folder has no chat template, so the file has none")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(
        InvalidBase, match=r"has no model\.safetensors, only pytorch_model\.bin; save the model as safetensors"
    ):
        export_folder(base, tmp_path / "x.gguf")


def test_a_mistral_that_says_no_window_has_the_default_of_transformers() -> None:
    from transformers import MistralConfig

    config = {"model_type": "mistral", "max_position_embeddings": 32768}
    assert longest_context(config) == (MistralConfig().sliding_window, True)
    assert longest_context({**config, "sliding_window": None}) == (32768, False)
    assert longest_context({**config, "max_position_embeddings": 2048}) == (2048, False)
    assert longest_context({**config, "model_type": "llama"}) == (32768, False)


@pytest.mark.parametrize("theta", [{}, {"rope_theta": 700.0}])
def test_of_two_descriptions_of_positions_transformers_takes_the_same(theta: dict[str, float]) -> None:
    said = {
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        **theta,
    }
    theirs = LlamaConfig.from_dict(json.loads(json.dumps(said))).rope_parameters
    found = rope_of(said)
    assert (found.kind, found.settings["factor"], found.theta) == ("linear", 4.0, theirs["rope_theta"])
    assert theirs["rope_type"] == "linear"


def test_biases_of_a_mistral_which_transformers_drops_are_refused(tmp_path: Path) -> None:
    base = reshaped(save_model(tmp_path / "plain", "mistral"), tmp_path / "base", attention_bias=True)
    export_folder(base, tmp_path / "without.gguf")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(32, dtype=np.float32)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(
        InvalidBase, match=r"'model\.layers\.0\.self_attn\.q_proj\.bias' is not one that the config implies"
    ):
        export_folder(base, tmp_path / "model.gguf")


def test_a_folder_of_several_types_is_written_in_the_one_that_holds_all(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    tensors = load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].astype(np.float16)
    save_file(tensors, base / "model.safetensors")
    report = export_folder(base, tmp_path / "mixed.gguf")
    assert (report.dtype, report.rounding) == ("f32", 0.0)
    # Norms are f32 in the file, whatever they are in the folder.
    halves = {name: tensor if "norm" in name else tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(halves, base / "model.safetensors")
    assert export_folder(base, tmp_path / "halves.gguf").dtype == "f16"


def test_what_transformers_has_a_default_for_may_be_left_out(tmp_path: Path) -> None:
    base = reshaped(save_model(tmp_path / "plain", "llama"), tmp_path / "base", rms_norm_eps=None)
    export_folder(base, tmp_path / "model.gguf")
    expected, _ = transformers_says(base, IDS)
    assert np.abs(LlamaCpp(tmp_path / "model.gguf").log_probabilities(IDS, 300) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("base", "changed", "said"),
    [
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "scales its positions by 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "does not say its factor"),
        ("llama", {"hidden_act": "gelu"}, "has the activation 'gelu'"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "is a LlamaForSequenceClassification"),
        ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
        ("llama", {"num_hidden_layers": None}, "does not say its num_hidden_layers"),
        ("llama", {"num_hidden_layers": 3}, r"'model\.layers\.2\.input_layernorm\.weight' is missing"),
        ("llama", {"num_hidden_layers": 1}, r"'model\.layers\.1\..*' is not one that the config implies"),
        ("llama", {"intermediate_size": 47}, r"'model\.layers\.0\.mlp\.gate_proj\.weight' is F32 of \[48, 32\]"),
        ("llama", {"num_hidden_layers": 10**7}, "gives 10000000 as its num_hidden_layers, .* 512 at most"),
        ("llama", {"max_position_embeddings": 10**12}, "gives 1000000000000 as its max_position_embeddings"),
        ("llama", {"rms_norm_eps": True}, "has a rms_norm_eps of 'True'"),
        ("llama", {"rms_norm_eps": 1e39}, "has a rms_norm_eps of '1e.39'"),
        ("llama", {"rope_parameters": {"rope_theta": 1e39}}, "does not say its rope_theta"),
        ("mistral", {"sliding_window": 0}, "has a sliding_window of '0'"),
        ("qwen3", {"attention_bias": True}, "is a Qwen3 whose attention has biases"),
        ("qwen3", {"layer_types": ["sliding_attention", "full_attention"]}, "has a sliding window in some layers"),
    ],
)
def test_what_can_not_be_exported_is_named(base: str, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = reshaped(save_model(tmp_path / "plain", base), tmp_path / "changed", **changed)
    with pytest.raises(InvalidBase, match=said):
        export_folder(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["gemma3", "mixtral", "gpt2"])
def test_other_models_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="export the causal models of Llama, Mistral, Qwen3"):
        export_folder(save_model(tmp_path / name, name), tmp_path / "model.gguf")


def test_numbers_that_a_type_can_not_hold(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds numbers too large for f16"):
        export_folder(base, tmp_path / "f16.gguf", dtype="f16")
    export_folder(base, tmp_path / "bf16.gguf", dtype="bf16")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"up_proj\.weight holds NaN or an infinity"):
        export_folder(base, tmp_path / "f32.gguf")


def _flip(path: Path, tensor: str, *, byte: int = 2) -> None:
    """Flip a bit in the first number of a tensor."""
    import gguf

    at = next(found for found in gguf.GGUFReader(path).tensors if found.name == tensor).data_offset + byte
    with path.open("r+b") as file:
        file.seek(at)
        (value,) = file.read(1)
        file.seek(at)
        file.write(bytes([value ^ 1]))


def test_whatever_is_written_wrongly_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, write, order = save_model(tmp_path / "base", "llama"), exporting.write, exporting.neighbours

    def fails(said: str) -> None:
        with pytest.raises(VerificationFailed, match=said):
            export_folder(base, tmp_path / "model.gguf")

    monkeypatch.setattr(exporting, "neighbours", lambda rows, heads: np.arange(rows))
    fails(r"the tensor model\.layers\.0\.self_attn\.q_proj\.weight differs")
    # The heads of q for k, as a model without grouped queries has them.
    monkeypatch.setattr(exporting, "neighbours", lambda rows, heads: order(rows, 4))
    fails(r"the tensor model\.layers\.0\.self_attn\.k_proj\.weight differs")
    monkeypatch.setattr(exporting, "neighbours", order)

    def flipped(path: Path, *given: Any) -> None:
        write(path, *given)
        _flip(path, "blk.1.ffn_down.weight", byte=0)

    monkeypatch.setattr(exporting, "write", flipped)
    fails(r"the tensor model\.layers\.1\.mlp\.down_proj\.weight differs")

    def another_key(path: Path, architecture: str, keys: Any, tensors: Any) -> None:
        write(
            path,
            architecture,
            {**keys, "llama.rope.freq_base": keys["llama.rope.freq_base"]._replace(value=5.0)},
            tensors,
        )

    monkeypatch.setattr(exporting, "write", another_key)
    fails(r"the key llama\.rope\.freq_base differs")
    monkeypatch.setattr(exporting, "write", lambda path, arch, keys, tensors: write(path, arch, keys, tensors[:-1]))
    fails("the list of its tensors differs")
