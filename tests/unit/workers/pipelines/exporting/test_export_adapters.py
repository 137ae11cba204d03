"""Adapters as GGUF files: what llama.cpp says with one on a model is what PEFT says, and wrong files are found."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import random_loras
from support.architectures import config_of as architecture
from support.architectures import save_model
from support.gguf_models import export_folder, export_lora, write_gemma
from support.llama_cpp import LlamaCpp
from support.random_loras import RandomLora

from sdk.errors import InvalidBase, InvalidInput, VerificationFailed
from sdk.exporting.gguf import config_of
from sdk.lora.gguf_adapters import plan_adapter
from sdk.lora.gguf_models import adapted_model
from workers.pipelines.exporting import adapter as exporting
from workers.pipelines.exporting.gguf_file import WrittenGguf

IDS = [5, 6, 7, 80, 99, 120, 33, 44, 200, 5, 9]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make a tiny base on first use; return its folder and its GGUF file."""

    @functools.cache
    def made(name: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(name)
        base, out = folder / "base", folder / "base.gguf"
        if name.startswith("gemma"):
            return _gemma(base, name), write_gemma(base, out)
        save_model(base, name)
        export_folder(base, out)
        return base, out

    return made


def _gemma(base: Path, name: str) -> Path:
    """Save a Gemma whose scores are scaled by the size of a head, as llama.cpp takes them to be."""
    from support import tiny
    from transformers import AutoModelForCausalLM

    base.mkdir()
    tiny.save_tokenizer(base)
    torch.manual_seed(1)
    config = architecture(name)
    config.query_pre_attn_scalar = 8
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    return base


def saved(base: Path, name: str, folder: Path, *, save_embeddings: Any = "auto", **settings: Any) -> Any:
    """Save a random adapter with plain PEFT; return its log probabilities after a text, (vocab,) in float64."""
    made = RandomLora(name, {"r": 4, "lora_alpha": 7, "target_modules": ALL, **settings}, save_embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = random_loras.save(made, base, folder, seed=3, input_ids=torch.tensor([IDS]))
    return logits[0, -1].double().log_softmax(-1).numpy()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("llama-tied", {"use_rslora": True}),
        ("mistral", {"rank_pattern": {"q_proj": 2, "1.mlp.up_proj": 8}}),
        ("qwen3", {"alpha_pattern": {"k_proj": 3, r".*\.1\.mlp\..*": 11}, "rank_pattern": {"v_proj": 1}}),
        ("qwen3", {"use_rslora": True, "target_modules": ["k_proj"], "r": 1, "lora_alpha": 0.3}),
        ("gemma2", {}),
        ("gemma3", {"use_rslora": True}),
        ("llama", {"target_modules": ["embed_tokens", "lm_head", "k_proj"], "save_embeddings": False}),
    ],
)
def test_llama_cpp_says_what_peft_says(bases: Any, name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base, model = bases(name)
    expected = saved(base, name, tmp_path / "adapter", **settings)
    report = export_lora(tmp_path / "adapter", base, tmp_path / "adapter.gguf")
    found = LlamaCpp(model, lora=tmp_path / "adapter.gguf").log_probabilities(IDS, 300)
    bare = LlamaCpp(model).log_probabilities(IDS, 300)
    # llama.cpp looks Gemma's activation up in a table of float16.
    allowed = 2e-3 if name.startswith("gemma") else 2e-5
    assert np.abs(found - expected).max() < allowed < np.abs(bare - expected).max() / 50
    assert report.rounding <= 1.0


def test_plain_lora_is_written_as_it_is(bases: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    base, _ = bases("qwen3")
    saved(base, "qwen3", tmp_path / "adapter")
    report = export_lora(tmp_path / "adapter", base, tmp_path / "a.gguf", name="code-review@v3", base_name="tiny")
    written, tensors = WrittenGguf(tmp_path / "a.gguf"), load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for half, part in (("a", "A"), ("b", "B")):
        name = f"base_model.model.model.layers.1.self_attn.k_proj.lora_{part}.weight"
        assert np.array_equal(written.rows(f"blk.1.attn_k.weight.lora_{half}"), tensors[name])
    said = {key: written.value(key) for key in ("adapter.lora.alpha", "general.name", "general.base_model.0.name")}
    assert said == {
        "adapter.lora.alpha": 7.0,
        "general.name": "code-review@v3",
        "general.base_model.0.name": "tiny",
    }
    assert (report.tensors, report.dtype, report.rounding < 1e-3) == (28, "f32", True)
    assert report.notes == []
    # The same adapter gives the same bytes.
    (tmp_path / "adapter" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    again = export_lora(tmp_path / "adapter", base, tmp_path / "b.gguf", name="code-review@v3", base_name="tiny")
    assert "--chat-template-file chat_template.jinja" in again.notes[0]
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrower_numbers(bases: Any, dtype: Any, tmp_path: Path) -> None:
    base, model = bases("llama")
    expected = saved(base, "llama", tmp_path / "adapter", use_rslora=True)
    report = export_lora(tmp_path / "adapter", base, tmp_path / "adapter.gguf", dtype=dtype)
    found = LlamaCpp(model, lora=tmp_path / "adapter.gguf").log_probabilities(IDS, 300)
    assert 0.01 < report.rounding <= 1.0
    assert float((np.exp(expected) * (expected - found)).sum()) < 1e-2


def test_an_adapter_over_a_model_of_several_parts(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "gemma3-vision")
    model = adapted_model(config_of(base))
    adapter = _written(tmp_path / "adapter", "model.language_model.layers.0.self_attn.q_proj", (4, 32), (32, 4))
    (module,) = plan_adapter(adapter, model).modules
    assert (module.name, module.heads) == ("model.layers.0.self_attn.q_proj", None)
    _written(tmp_path / "adapter", "model.vision_tower.encoder.layers.0.self_attn.q_proj", (4, 32), (32, 4))
    with pytest.raises(InvalidInput, match=r"adapts 'model\.vision_tower\..*' \(not a linear module of the text"):
        plan_adapter(adapter, model)


def _written(folder: Path, module: str, a: tuple[int, ...], b: tuple[int, ...], **config: Any) -> Path:
    """Write an adapter of one module by hand."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    tensors = {
        f"base_model.model.{module}.lora_{half}.weight": random.standard_normal(shape, dtype=np.float32)
        for half, shape in (("A", a), ("B", b))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": a[0], "lora_alpha": 8, "target_modules": [module.rpartition(".")[2]]}
    said |= {"layers_to_transform": [0], **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("module", "a", "b", "config", "error", "said"),
    [
        (Q, (4, 32), (32, 4), {"use_dora": True}, InvalidInput, "has the magnitudes of DoRA.*adapterctl merge"),
        (Q, (4, 32), (32, 4), {"lora_bias": True}, InvalidInput, "has LoRA biases"),
        (Q, (4, 32), (32, 4), {"bias": "all"}, InvalidInput, "holds biases of the base"),
        (Q, (4, 32), (32, 4), {"modules_to_save": ["lm_head"]}, InvalidInput, "holds whole modules"),
        (Q, (4, 32), (32, 4), {"trainable_token_indices": [3]}, InvalidInput, "trains the embeddings of tokens"),
        (Q, (4, 32), (32, 4), {"target_parameters": ["x.y"]}, InvalidInput, "adapts stacked experts"),
        (Q, (4, 32), (32, 4), {"init_lora_weights": "pissa"}, InvalidInput, "'pissa', which changes the base"),
        (Q, (4, 32), (32, 4), {"peft_type": "IA3"}, InvalidInput, "is of the type 'IA3'"),
        (Q, (4, 32), (32, 4), {"r": 8}, VerificationFailed, "has the rank 4, but adapter_config.json says 8"),
        (Q, (4, 32), (32, 3), {}, VerificationFailed, "has A and B of different ranks"),
        (Q, (4, 32), (16, 4), {}, InvalidInput, "for a weight of 16×32, but the base's is 32×32"),
        (
            Q,
            (4, 32),
            (32, 4),
            {"target_modules": ["gate_proj"]},
            VerificationFailed,
            f"has weights for '{Q}', which the",
        ),
        (Q, (4, 32), (32, 4), {"target_modules": None}, VerificationFailed, f"has weights for '{Q}', which the"),
        (
            Q,
            (4, 32),
            (32, 4),
            {"layers_to_transform": None},
            VerificationFailed,
            "no weights for 'model.layers.1.self_attn.q_proj'",
        ),
        (Q, (4, 32), (32, 4), {"layers_to_transform": [1]}, VerificationFailed, f"has weights for '{Q}', which the"),
        ("model.layers.9.self_attn.q_proj", (4, 32), (32, 4), {}, InvalidInput, "but the base has 2 layers"),
        ("model.layers.0.input_layernorm", (4, 32), (32, 4), {}, InvalidInput, "not a linear module"),
    ],
)
def test_what_has_no_place_is_named(
    bases: Any, module: str, a: Any, b: Any, config: Any, error: Any, said: str, tmp_path: Path
) -> None:
    base, _ = bases("llama")
    adapter = _written(tmp_path / "adapter", module, a, b, **config)
    with pytest.raises(error, match=said):
        plan_adapter(adapter, adapted_model(config_of(base)))


def test_whole_tensors_and_tied_embeddings_have_no_place(bases: Any, tmp_path: Path) -> None:
    untied, _ = bases("llama")
    saved(untied, "llama", tmp_path / "whole", target_modules=["embed_tokens"])
    with pytest.raises(
        InvalidInput, match=r"holds the tensor '.*embed_tokens\.base_layer\.weight' \(neither A nor B\)"
    ):
        export_lora(tmp_path / "whole", untied, tmp_path / "whole.gguf")
    tied, _ = bases("llama-tied")
    saved(tied, "llama-tied", tmp_path / "tied", target_modules=["embed_tokens"], save_embeddings=False)
    with pytest.raises(InvalidInput, match=r"adapts embed_tokens, which the base ties to its head.*merge it"):
        export_lora(tmp_path / "tied", tied, tmp_path / "tied.gguf")


def test_other_bases_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="adapters over OPT models can't be exported to GGUF"):
        adapted_model(config_of(save_model(tmp_path / "opt", "opt")))


def test_whatever_is_written_wrongly_is_found(bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = bases("llama")
    saved(base, "llama", tmp_path / "adapter", use_rslora=True, alpha_pattern={"k_proj": 3})
    order = exporting.neighbours

    def fails(said: str) -> None:
        with pytest.raises(VerificationFailed, match=said):
            export_lora(tmp_path / "adapter", base, tmp_path / "adapter.gguf", dtype="bf16")

    monkeypatch.setattr(exporting, "neighbours", lambda rows, heads: np.arange(rows))
    fails(r"what it does to model\.layers\.0\.self_attn\.k_proj differs")
    monkeypatch.setattr(exporting, "neighbours", lambda rows, heads: order(rows, 4))
    fails(r"what it does to model\.layers\.0\.self_attn\.k_proj differs")
    monkeypatch.setattr(exporting, "neighbours", order)

    real = exporting.GgufAdapterPlan.factor
    monkeypatch.setattr(exporting.GgufAdapterPlan, "factor", lambda self, module: 1.0)
    fails(r"what it does to model\.layers\.0\.mlp\.down_proj differs")
    # The scale of one module alone.
    monkeypatch.setattr(
        exporting.GgufAdapterPlan,
        "factor",
        lambda self, module: real(self, module) * (1.02 if module.module.endswith("1.mlp.up_proj") else 1.0),
    )
    fails(r"what it does to model\.layers\.1\.mlp\.up_proj differs")
    monkeypatch.setattr(exporting.GgufAdapterPlan, "factor", real)

    write = exporting.write
    monkeypatch.setattr(exporting, "write", lambda path, arch, keys, tensors: write(path, arch, keys, tensors[:-2]))
    fails("the list of its tensors differs")
    # The layers of one module exchanged.
    monkeypatch.setattr(
        exporting,
        "write",
        lambda path, arch, keys, tensors: write(
            path, arch, keys, [*_exchanged(tensors[:14], tensors[14:]), *tensors[14:]]
        ),
    )
    fails(r"what it does to model\.layers\.0\.mlp\.down_proj differs")

    def flipped(path: Path, *given: Any) -> None:
        write(path, *given)
        with path.open("r+b") as file:
            file.seek(-33, os.SEEK_END)
            (value,) = file.read(1)
            file.seek(-33, os.SEEK_END)
            file.write(bytes([value ^ 1]))

    # One bit of one number, of the last tensor.
    monkeypatch.setattr(exporting, "write", flipped)
    fails(r"what it does to model\.layers\.1\.self_attn\.v_proj differs")
    monkeypatch.setattr(exporting, "write", lambda path, *given: (write(path, *given), os.truncate(path, 5000)))
    fails("can't be read back")


def _exchanged(first: list[Any], second: list[Any]) -> list[Any]:
    """Give two modules of one shape each other's tensors."""
    return [dataclasses.replace(one, blocks=other.blocks) for one, other in zip(first, second, strict=True)]
