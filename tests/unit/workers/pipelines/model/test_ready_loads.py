"""What admission lets through loads in evaluation and in a merge, and says there what plain PEFT says; the rest is
refused truly.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.architectures import save_model
from support.merges import merge
from support.random_loras import MODULES, RandomLora, draw, logits, save
from support.soak import scale
from support.weights import admitted
from transformers import AutoModelForCausalLM

from registry.errors import Verification
from sdk.errors import InvalidInput
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import BaseRegistration
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import default_recipe

pytestmark = pytest.mark.filterwarnings("ignore")

INPUT_IDS = torch.arange(2, 22).reshape(2, 10)
#: Tokens of the bases; of a resized vocabulary more may be there, which nobody asks for.
VOCABULARY = 300


def _changes_base(made: RandomLora) -> bool:
    return str(made.settings.get("init_lora_weights")).startswith(("pissa", "olora"))


def _biased_without_bias(made: RandomLora) -> bool:
    biased = {"llama-biased": {"q_proj", "k_proj", "v_proj", "o_proj"}, "opt": {*MODULES["opt"][0]}}
    biased["gpt2"] = {*MODULES["gpt2"][0]}
    adapted = {*made.settings["target_modules"]} | {"up_proj" for _ in made.settings.get("target_parameters", [])}
    return bool(made.settings.get("lora_bias")) and not adapted <= biased.get(made.base, set())


def _adapts_embeddings(made: RandomLora) -> bool:
    return bool({*made.settings["target_modules"]} & {"embed_tokens", "wte", "lm_head"})


#: Every reason for which admission may refuse what PEFT saved, and when it is the true one.
REASONS = {
    r"init_lora_weights is '.*', which changes the base": _changes_base,
    "layer_replication repeats the base's layers": lambda made: "layer_replication" in made.settings,
    "alora_invocation_tokens makes the adapter act": lambda made: "alora_invocation_tokens" in made.settings,
    "lora_bias is true, and the base's .* has no bias": _biased_without_bias,
    # PEFT saves the embeddings that it adapts, and not the other half of an untied pair.
    "the vocabulary was resized": lambda made: (
        made.resized
        and (_adapts_embeddings(made) or "modules_to_save" in made.settings or made.save_embeddings is False)
    ),
    "is adapted, and trainable_token_indices trains tokens of the same weight": lambda made: (
        "trainable_token_indices" in made.settings and "lm_head" in made.settings["target_modules"]
    ),
    "means the same weight as .*save_embedding_layers=False": lambda made: bool(
        made.settings.get("use_dora") and _adapts_embeddings(made)
    ),
}


class Bases:
    """Tiny bases in a folder, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.get = cache(self._make)

    def _make(self, name: str) -> tuple[Path, BaseRegistration]:
        base = save_model(self._folder / name, name)
        return base, scan_base(base, cache=Cache(self._folder / "cache")).registration


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def through_admission(saved: Path, base: BaseRegistration, published: Path) -> list[str]:
    """Publish an adapter as a push and the registry do; return the warnings. Raises InvalidInput, Verification."""
    published.mkdir()
    package = pack_adapter(
        saved, base_id="tiny", base_revision=None, base_fingerprint=base.fingerprint, staging=published
    )
    shutil.copy(saved / WEIGHTS_FILE, published)
    return admitted(published, base, package.lora)


def evaluated(base: Path, adapter: Path) -> Any:
    """Return the logits by which an evaluation scores."""
    loaded = load_base(base, choose_device(), quantization=None, dtype="float32")
    return logits(load_adapter(loaded.model, adapter), INPUT_IDS)[..., :VOCABULARY]


def merged(base: Path, adapter: Path, out: Path) -> Any:
    """Return the logits of a merged model as transformers reads it."""
    merge(base, adapter, out)
    return logits(AutoModelForCausalLM.from_pretrained(out).eval(), INPUT_IDS)[..., :VOCABULARY]


def refused(made: RandomLora, said: str) -> str:
    """Return the reason, after holding it against how the adapter was made."""
    reason = next((reason for reason in REASONS if re.search(reason, said)), None)
    assert reason is not None, f"{made}: {said}"
    assert REASONS[reason](made), f"{made}: {said}"
    return f"admission: {reason[:30]}"


def held(made: RandomLora, bases: Bases, folder: Path, *, seed: int, drop: bool = False) -> str:
    """Hold one configuration against the property, its file without one of the tensors where `drop`; return how it went."""
    base, registration = bases.get(made.base)
    try:
        truth = save(made, base, folder / "saved", seed=seed, input_ids=INPUT_IDS)[..., :VOCABULARY]
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        return f"PEFT: {type(error).__name__}"
    if drop:
        tensors = load_file(folder / "saved" / WEIGHTS_FILE)
        del tensors[random.Random(seed).choice(sorted(tensors))]
        save_file(tensors, folder / "saved" / WEIGHTS_FILE)
    try:
        through_admission(folder / "saved", registration, folder / "published")
    except (InvalidInput, Verification) as error:
        return "dropped" if drop else refused(made, str(error))
    assert (evaluated(base, folder / "published") - truth).abs().max() < 1e-4, f"evaluation of {made}"
    assert (merged(base, folder / "published", folder / "merged") - truth).abs().max() < 1e-3, f"merge of {made}"
    return "ready"


@pytest.mark.soak
def test_what_is_ready_loads_and_what_is_not_is_refused_truly(bases: Bases, tmp_path: Path) -> None:
    went: Counter[str] = Counter()
    for seed in range(scale(900, share=36)):
        went[held(draw(seed), bases, tmp_path / str(seed), seed=seed)] += 1
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)
    assert went["ready"] > sum(went.values()) / 2, went


@pytest.mark.soak
def test_a_file_without_one_of_its_tensors_is_refused_unless_it_was_a_copy(bases: Bases, tmp_path: Path) -> None:
    went: Counter[str] = Counter()
    for seed in range(scale(600, share=24)):
        went[held(draw(seed), bases, tmp_path / str(seed), seed=seed, drop=True)] += 1
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)
    assert went["dropped"] > sum(went.values()) / 2, went


@pytest.mark.parametrize(
    "made",
    [
        # Each was refused for ever by a later step, or by admission for a reason that was not so, or merged wrongly.
        RandomLora("llama", {"r": 2, "target_modules": ["q_proj"]}, save_embeddings=True),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["q_proj"]}, save_embeddings=True),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["q_proj"]}, resized=True),
        RandomLora("llama", {"r": 2, "target_modules": ["q_proj"]}, resized=True),
        RandomLora("gpt2", {"r": 2, "target_modules": ["c_attn"], "trainable_token_indices": [301]}, resized=True),
        RandomLora("opt", {"r": 2, "target_modules": ["fc1"], "modules_to_save": ["embed_tokens"]}, resized=True),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["q_proj", "lm_head"]}),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["q_proj", "embed_tokens"]}),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["lm_head", "embed_tokens"]}, save_embeddings=False),
        RandomLora("gpt2", {"r": 2, "target_modules": ["c_attn", "lm_head"]}),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
        RandomLora("llama-tied", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        RandomLora(
            "llama", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, save_embeddings=True
        ),
        RandomLora("opt", {"r": 2, "target_modules": ["fc1"], "trainable_token_indices": [3]}, save_embeddings=True),
    ],
    ids=str,
)
def test_what_is_loadable_is_taken(made: RandomLora, bases: Bases, tmp_path: Path) -> None:
    assert held(made, bases, tmp_path, seed=1) == "ready"
    model = AutoModelForCausalLM.from_pretrained(bases.get(made.base)[0])
    if made.resized:
        model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    plain = logits(PeftModel.from_pretrained(model, tmp_path / "published").eval(), INPUT_IDS)[..., :VOCABULARY]
    assert (plain - evaluated(bases.get(made.base)[0], tmp_path / "published")).abs().max() < 1e-4


@pytest.mark.parametrize("init", ["pissa", "olora", "pissa_niter_4"])
def test_what_changed_the_base_is_taken_once_it_is_converted_as_the_refusal_says(
    bases: Bases, tmp_path: Path, init: str
) -> None:
    base, registration = bases.get("llama")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=init, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "initial")
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    truth = logits(adapted.eval(), INPUT_IDS)

    adapted.save_pretrained(tmp_path / "as-it-is")
    with pytest.raises(InvalidInput, match="path_initial_model_for_weight_conversion=INITIAL"):
        through_admission(tmp_path / "as-it-is", registration, tmp_path / "refused")
    adapted.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    through_admission(tmp_path / "converted", registration, tmp_path / "published")
    assert (evaluated(base, tmp_path / "published") - truth).abs().max() < 1e-3
    assert (merged(base, tmp_path / "published", tmp_path / "merged") - truth).abs().max() < 1e-3


@pytest.mark.parametrize("init", ["orthogonal", "mica", "eva", "gaussian"])
def test_a_way_to_begin_is_none_to_load(bases: Bases, tmp_path: Path, init: str) -> None:
    """PEFT begins each matrix anew before it fills it, which over weights in 4 bits it can't for some of these."""
    made = RandomLora("llama", {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": init})
    assert held(made, bases, tmp_path, seed=1) == "ready"
    device = choose_device()
    loaded = load_base(bases.get("llama")[0], device, quantization=default_recipe(device), held="packed")
    assert logits(load_adapter(loaded.model, tmp_path / "published"), INPUT_IDS).isfinite().all()


def test_a_base_stays_as_it_is_where_a_merge_unties_its_copy(bases: Bases, tmp_path: Path) -> None:
    made = RandomLora("llama-tied", {"r": 2, "target_modules": ["lm_head"]})
    assert held(made, bases, tmp_path, seed=1) == "ready"
    base = load_file(bases.get("llama-tied")[0] / "model.safetensors")["model.embed_tokens.weight"]
    stored = load_file(tmp_path / "merged/model.safetensors")
    assert torch.equal(stored["model.embed_tokens.weight"], base)
    assert not torch.equal(stored["lm_head.weight"], base)


def test_half_an_adapter_is_refused_by_admission_as_evaluation_would(bases: Bases, tmp_path: Path) -> None:
    made = RandomLora("llama", {"r": 2, "target_modules": ["q_proj", "v_proj"]})
    base, registration = bases.get("llama")
    save(made, base, tmp_path / "saved", seed=1, input_ids=INPUT_IDS)
    kept = {
        name: tensor
        for name, tensor in load_file(tmp_path / "saved" / WEIGHTS_FILE).items()
        if "layers.1.self_attn.v_proj" not in name
    }
    save_file(kept, tmp_path / "saved" / WEIGHTS_FILE)
    with pytest.raises(Verification, match=r"no weights for model\.layers\.1\.self_attn\.v_proj"):
        through_admission(tmp_path / "saved", registration, tmp_path / "published")
    with pytest.raises(PipelineError, match="2 of its matrices are missing"):
        evaluated(base, tmp_path / "published")


def test_an_embedding_of_other_values_than_the_model_can_hold_is_no_adapter_of_it(bases: Bases, tmp_path: Path) -> None:
    made = RandomLora("llama-tied", {"r": 2, "target_modules": ["q_proj"]}, save_embeddings=True)
    base, registration = bases.get("llama-tied")
    save(made, base, tmp_path / "saved", seed=1, input_ids=INPUT_IDS)
    tensors = load_file(tmp_path / "saved" / WEIGHTS_FILE)
    # One weight can't be both.
    tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.lm_head.weight"] + 1
    save_file(tensors, tmp_path / "saved" / WEIGHTS_FILE)
    through_admission(tmp_path / "saved", registration, tmp_path / "published")
    with pytest.raises(PipelineError, match="1 of the adapter's tensors match no module"):
        evaluated(base, tmp_path / "published")
