"""An adapter in the place of one that PEFT has loaded: bit for bit what PEFT would have loaded."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import served
from support.architectures import save_model

from workers.pipelines.model.adapters import load_adapter
from workers.serving.decoding.loop import DecodeLoop
from workers.serving.decoding.requests import DecodeQuestion
from workers.serving.decoding.reused_wrappers import ReusedWrappers

# What silences it where PEFT reads it is a context of filters, which is not of one thread alone.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "patterns": (
        "llama",
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"v_proj": 3},
            "use_rslora": True,
        },
    ),
    "embedding and head": (
        "llama",
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ),
    "bias of B": ("llama", {"lora_bias": True}),
    "transposed": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of each architecture, in float32."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: save_model(folder / name, name) for name in ("llama", "gpt2")}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_in_anothers_place_is_what_peft_loads(bases: dict[str, Path], tmp_path: Path, shape: str) -> None:
    family, settings = SHAPES[shape]
    base = bases[family]
    first, second = (served.save_adapter(base, tmp_path / str(seed), seed=seed, **settings) for seed in (1, 2))
    _in_half_precision(second)
    loaded = load_adapter(_model(base), first)
    held = own_tensors(loaded)
    before = {name: tensor.clone() for name, tensor in held.items()}
    reused = ReusedWrappers(first, loaded)
    assert not reused.fits(second), "its numbers are of another type"
    _in_half_precision(first)
    reused = ReusedWrappers(first, loaded)
    assert reused.fits(second)
    reused.take(second)
    right = load_adapter(_model(base), second)
    found, wanted = own_tensors(loaded), own_tensors(right)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype is tensor.dtype
        # Whoever has the first one's still has them.
        assert torch.equal(held[name], before[name])
    text = torch.tensor([[40, 41, 99, 120]])
    with torch.inference_mode():
        assert torch.equal(reused.model(input_ids=text).logits, right(input_ids=text).logits)


@pytest.mark.parametrize("change", [{"lora_alpha": 16}, {"r": 2}, {"target_modules": ["q_proj"]}])
def test_an_adapter_of_another_shape_does_not_fit(
    bases: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    first = served.save_adapter(bases["llama"], tmp_path / "first", seed=1)
    other = served.save_adapter(bases["llama"], tmp_path / "other", seed=2, **change)
    assert not ReusedWrappers(first, load_adapter(_model(bases["llama"]), first)).fits(other)


def test_where_an_adapter_comes_from_is_no_part_of_its_shape(bases: dict[str, Path], tmp_path: Path) -> None:
    first = served.save_adapter(bases["llama"], tmp_path / "first", seed=1)
    reused = ReusedWrappers(first, load_adapter(_model(bases["llama"]), first))
    other = served.save_adapter(bases["llama"], tmp_path / "other", seed=2)
    file = other / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "elsewhere"}))
    assert reused.fits(other)


def test_versions_of_one_shape_answer_each_as_peft_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    base, prompt = bases["llama"], (40, 41, 99, 120, 77)
    folders = {f"a@v{seed}": served.save_adapter(base, tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)}
    truth = {name: served.alone(served.plain(base, folder), prompt, 5) for name, folder in folders.items()}
    assert len({*map(tuple, truth.values())}) == 3
    with DecodeLoop(base, dtype="float32") as loop:
        for name in ("a@v1", "a@v2"):
            loop.load(name, folders[name])
        assert _answers(loop, prompt, "a@v1", "a@v2") == [truth["a@v1"], truth["a@v2"]]
        # The one that was loaded last goes, and the first: the next has no other to be like, or the last one.
        loop.release("a@v2")
        loop.load("a@v3", folders["a@v3"])
        loop.release("a@v1")
        loop.load("a@v2", folders["a@v2"])
        assert _answers(loop, prompt, "a@v2", "a@v3") == [truth["a@v2"], truth["a@v3"]]


def _answers(loop: DecodeLoop, prompt: tuple[int, ...], *names: str) -> list[list[int]]:
    answers = [served.Listener() for _ in names]
    for name, answer in zip(names, answers, strict=True):
        loop.submit(DecodeQuestion(prompt, name, 5), answer)
    return [answer.wait() for answer in answers]


def own_tensors(loaded: Any) -> dict[str, Any]:
    """Return the matrices of PEFT's model, by their names in a file."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        # Of a bias, which has one dimension.
        warnings.simplefilter("ignore")
        return dict(get_peft_model_state_dict(loaded, save_embedding_layers=False))


def _model(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base).eval()


def _in_half_precision(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name: each.half() for name, each in load_file(file).items()}, file, metadata={"format": "pt"})
