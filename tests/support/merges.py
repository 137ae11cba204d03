"""Adapters of every variant over tiny bases of every family, and what plain PEFT makes of both in float64."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.architectures import save_model
from support.hosts import InProcess

if TYPE_CHECKING:
    from sdk.schemas.evaluation import MergeReport

#: By architecture: the adapted modules, a layer's norm, the embeddings and the head.
FAMILIES: dict[str, tuple[list[str], str, str]] = {
    "llama": (["q_proj", "v_proj", "down_proj"], "input_layernorm", "embed_tokens"),
    "llama-tied": (["q_proj", "up_proj"], "input_layernorm", "embed_tokens"),
    "llama-biased": (["q_proj", "o_proj"], "input_layernorm", "embed_tokens"),
    "mistral": (["k_proj", "gate_proj"], "input_layernorm", "embed_tokens"),
    "qwen3": (["q_proj", "o_proj"], "input_layernorm", "embed_tokens"),
    "qwen3.5": (["q_proj", "in_proj_qkv", "out_proj"], "input_layernorm", "embed_tokens"),
    "phi3": (["qkv_proj", "gate_up_proj"], "input_layernorm", "embed_tokens"),
    "gemma2": (["q_proj", "down_proj"], "input_layernorm", "embed_tokens"),
    "gemma3": (["v_proj", "o_proj"], "input_layernorm", "embed_tokens"),
    "gpt2": (["c_attn", "c_fc"], "ln_1", "wte"),
    "opt": (["q_proj", "fc2"], "final_layer_norm", "embed_tokens"),
    "mixtral": (["q_proj", "o_proj"], "input_layernorm", "embed_tokens"),
    "qwen3-moe": (["q_proj", "v_proj"], "input_layernorm", "embed_tokens"),
}
#: Families with biases to which B's bias can be added, and families with experts.
BIASED, EXPERTS = ("llama-biased", "gpt2", "opt"), ("mixtral", "qwen3-moe")


def variants(family: str) -> dict[str, dict[str, Any]]:
    """Return the settings of each variant that a family can have."""
    modules, norm, embedding = FAMILIES[family]
    found: dict[str, dict[str, Any]] = {
        "plain": {},
        "rslora": {"use_rslora": True},
        "patterns": {"rank_pattern": {modules[0]: 5}, "alpha_pattern": {modules[0]: 3, r".*\.1\..*": 7}},
        "dora": {"use_dora": True},
        "bias": {"bias": "all"},
        "whole": {"modules_to_save": [norm]},
        "tokens": {"trainable_token_indices": [3, 5, 200]},
        "embeddings": {"target_modules": [*modules, embedding]},
        "dora of embeddings": {"target_modules": [*modules, embedding], "use_dora": True},
        "head": {"target_modules": [*modules, "lm_head"]},
    }
    if family in BIASED:
        found["B's bias"] = {"lora_bias": True}
    if family in EXPERTS:
        found["experts"] = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    return found


def settings(family: str, variant: str) -> dict[str, Any]:
    """Return PEFT's settings for a variant of a family."""
    return {"target_modules": FAMILIES[family][0], "r": 3, "lora_alpha": 4, **variants(family)[variant]}


@dataclass(frozen=True)
class Made:
    """A base and an adapter over it."""

    base: Path
    adapter: Path


def save_in(base: Path, to: Path, *, dtype: str, shards: int) -> Path:
    """Write a base again in another precision and number of files; return the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    model.save_pretrained(to, max_shard_size=size + 1 if shards == 1 else size // shards)
    for path in base.iterdir():
        if not path.name.endswith((".safetensors", ".index.json")) and not (to / path.name).exists():
            shutil.copyfile(path, to / path.name)
    return to


def make(family: str, variant: str, folder: Path, *, dtype: str = "float32", shards: int = 1) -> Made:
    """Write a base, and over it an adapter of a variant with every matrix changed."""
    plain = save_model(folder / "plain", family)
    base = save_in(plain, folder / "base", dtype=dtype, shards=shards)
    return Made(base, save_adapter(base, folder / "adapter", **settings(family, variant)))


def save_adapter(base: Path, folder: Path, *, size: float = 0.1, **settings: Any) -> Path:
    """Write an adapter as plain PEFT saves it, after changing everything that it trains; return the folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * size
        return save_as_pushed(adapted, folder, save_embedding_layers=False)


def save_as_pushed(adapted: Any, folder: Path, **how: Any) -> Path:
    """Save what PEFT made into a folder, with the config that a push leaves of it; return the folder."""
    adapted.save_pretrained(folder, **how)
    path = folder / "adapter_config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "megatron_core"}
    path.write_text(json.dumps(config))
    return folder


def merge(base: Path, adapter: Path, out: Path, **options: Any) -> MergeReport:
    """Merge. Options are a `spec`, or its fields, `on_progress`, and what else an order has: `quantization`, `labels` …"""
    from sdk.schemas.evaluation import MergeSpec
    from workers.pipelines.merging.merge import carry_out
    from workers.pipelines.orders import MergeOrder

    fields = {name: value for name, value in options.items() if name in MergeSpec.model_fields}
    rest = {name: value for name, value in options.items() if name not in fields}
    host = InProcess(out, rest.pop("on_progress", lambda progress: None))
    given: dict[str, Any] = {"quantization": None, "labels": None, "spec": MergeSpec(**fields), **rest}
    return carry_out(MergeOrder(base=base, adapter=adapter, **given), host)


def by_peft(made: Made, dtype: Any) -> dict[str, Any]:
    """Return the parameters of the model that PEFT merges, summed in a precision, from a base that is first made wide.

    Tied weights are untied first, so that each weight only gets its own update.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(model, made.adapter, torch_device="cpu").to(dtype)
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        if hasattr(head, "get_base_layer") or hasattr(embeddings, "lora_embedding_A"):
            one, other = (
                each.get_base_layer() if hasattr(each, "get_base_layer") else each for each in (head, embeddings)
            )
            if one.weight is other.weight:
                one.weight = torch.nn.Parameter(other.weight.detach().clone())
        merged = adapted.merge_and_unload()
    return {name: tensor.detach() for name, tensor in merged.state_dict().items()}


def loaded(folder: Path) -> dict[str, Any]:
    """Return the parameters of a folder's model as transformers reads it, in the precision of its files."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict())


def require_published(
    made: Made, out: Path, report: Any, *, classifies: bool = False, vocabulary: int | None = None
) -> None:
    """Check a merged folder against its base as the registry's admission does. Raises Verification."""
    from registry.catalog.bases.deriving import Derived
    from registry.catalog.bases.finding import known_base
    from registry.catalog.publishing.merged_models import MergedFrom, judge_model
    from sdk.formats.adapter_files import TEMPLATE_FILE, VOCABULARY_FILES
    from sdk.pulling.cache import Cache
    from sdk.pushing.base_folder import scan_base
    from sdk.schemas.catalog import BaseBrief

    cache = Cache(out.parent / "gate-cache")
    base, merged = scan_base(made.base, cache=cache), scan_base(out, cache=cache)
    tokenizer = {file.path: {file.sha256} for file in base.manifest.files}
    for own in (made.adapter / name for name in (TEMPLATE_FILE, *VOCABULARY_FILES)):
        if own.is_file():
            tokenizer.setdefault(own.name, set()).add(cache.sha256_of(own.resolve()))
    ours, theirs = merged.registration, base.registration
    brief = BaseBrief.model_validate({name: getattr(theirs, name) for name in BaseBrief.model_fields})
    known = known_base(1, brief, theirs.tensors, theirs.config)
    assert known.tensors
    digests = {name: frozenset(found) for name, found in tokenizer.items()}
    said = MergedFrom(classifies, report.read_back.tensors, vocabulary, digests)
    model = Derived(ours.config, ours.tensors, ours.size_bytes)
    assert judge_model(model, merged.manifest, known, said) == []
