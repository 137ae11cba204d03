"""What an adapter becomes in a GGUF file, module by module, or why it can't: from its config and the header of its weights.

llama.cpp adds (α/r)·b·(a·x) to a module's output. α is one number for the whole file, r the number of columns of each b. This equals
the adapter's s·B·A if b = f·B with f = s·r/α, which is 1 for plain LoRA of any rank, and √r for rsLoRA.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput, VerificationFailed
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE, variant_setting
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, Targets
from sdk.formats.peft_unusable import unusable
from sdk.lora.adapter import AdapterError, LoraAdapter
from sdk.lora.adapter_config import lora_of, read_adapter_config
from sdk.lora.gguf_models import LAYER_MODULES, GgufModel
from sdk.lora.tensors import Tensor, read_tensors

_PATTERN_STEPS = 10_000_000
_LAYER = re.compile(r"layers\.([0-9]{1,5})\.((?:self_attn|mlp)\.[a-z]+_proj)")
#: A module's name before and after the number of its layer.
_PLACE = re.compile(r"(.*layers\.)[0-9]{1,5}(\..*)")
#: The prefix of the text part, in a model of text alone and in a model of several parts.
_TEXT_PART = re.compile(r"(?:model\.language_model\.|language_model\.model\.|model\.)(?=layers\.|embed_tokens$)")
_MERGE = "merge it with: adapterctl merge REF -o DIR, and export DIR"
#: Settings that llama.cpp has no counterpart for, as a clause about the adapter.
_SETTINGS = {
    "use_dora": "has the magnitudes of DoRA",
    "lora_bias": "has LoRA biases",
    "modules_to_save": "holds whole modules that were trained (modules_to_save)",
    "trainable_token_indices": "trains the embeddings of tokens",
    "target_parameters": "adapts stacked experts (target_parameters)",
    "use_qalora": "shares A among groups of inputs (QALoRA)",
    "use_bdlora": "has block-diagonal A or B",
    "velora_config": "is of the variant VeLoRA",
    "monteclora_config": "is of the variant MonteCLoRA",
}


@dataclass(frozen=True)
class GgufModule:
    """One module's A and B, and what they become."""

    #: Its name in the file of weights.
    module: str
    #: Its name in a model of text alone: "model.layers.0.self_attn.q_proj".
    name: str
    #: (r, in), of an embedding (r, entries)
    a: Tensor
    #: (out, r), of an embedding (dimension, r)
    b: Tensor
    rank: int
    #: s, of ΔW = s·B·A.
    scale: float
    #: The number of heads within which B's rows are reordered; None if they are not.
    heads: int | None
    embedding: bool


@dataclass(frozen=True)
class GgufAdapterPlan:
    """A whole adapter."""

    #: The α of the file.
    alpha: float
    modules: list[GgufModule]

    def factor(self, module: GgufModule) -> float:
        """Return f, by which B is multiplied; 1.0 if B is written unchanged."""
        found = module.scale * module.rank / self.alpha
        return 1.0 if math.isclose(found, 1.0, rel_tol=1e-12) else found


def plan_adapter(folder: Path, model: GgufModel) -> GgufAdapterPlan:
    """Return what each module of a PEFT folder becomes over a base. Raises InvalidInput, NotFound, VerificationFailed."""
    config = read_adapter_config(folder)
    _refuse_settings(config)
    path = folder / WEIGHTS_FILE
    try:
        # Scales don't depend on the targets, which may be a pattern.
        adapter = LoraAdapter(read_tensors(path).values(), lora_of({**config, "target_modules": ["-"]}), in_order=True)
        _refuse_others(adapter)
        modules = [_module(adapter, name, model) for name in sorted(adapter.modules)]
    except AdapterError as error:
        raise VerificationFailed(
            f"{path}: {error}; save the adapter again with PEFT, and push it with: adapterctl push --expand-patterns"
        ) from error
    if not modules:
        raise VerificationFailed(f"{path} has no LoRA weights; pull the version again")
    _require_targets(config, modules, model)
    return GgufAdapterPlan(_alpha(config), modules)


def _require_targets(config: Mapping[str, Any], modules: Sequence[GgufModule], model: GgufModel) -> None:
    """Raise VerificationFailed unless these are the modules that a config means.

    PEFT leaves the weights of other modules unread, and makes new ones for those that are missing in some layers only.
    """
    everything = str(config.get("target_modules")).lower() == "all-linear"
    try:
        targets = Targets(config, Budget(_PATTERN_STEPS))
        for module in modules:
            linear = everything and module.name.startswith("model.layers.")
            if not linear and not targets.means(module.module):
                raise VerificationFailed(
                    f"the adapter has weights for {module.module!r}, which the target_modules of {CONFIG_FILE} don't mean; save the "
                    "adapter again with PEFT"
                )
        held = {module.module for module in modules}
        for begin, kind in sorted({found.groups() for name in held if (found := _PLACE.fullmatch(name))}):
            for number in range(model.layers):
                name = f"{begin}{number}{kind}"
                if name not in held and (everything or targets.means(name)):
                    raise VerificationFailed(
                        f"the adapter has no weights for {name!r}, which the target_modules of {CONFIG_FILE} mean too; save the adapter "
                        "again with PEFT, or name the layers in layers_to_transform"
                    )
    except (ExpressionError, BudgetError) as error:
        raise InvalidInput(
            f"{CONFIG_FILE} has a pattern that can't be tried, for {error}; push it with: adapterctl push --expand-patterns",
            param="target",
        ) from error


def _refuse_settings(config: Mapping[str, Any]) -> None:
    """Raise InvalidInput for settings that llama.cpp's adapters can't hold."""
    if config.get("peft_type") != "LORA":
        raise _no_room(f"is of the type {str(config.get('peft_type'))[:40]!a}", "export adapters of the type LORA")
    if said := unusable(config):
        raise InvalidInput(f"the adapter can't be exported, for {said}", param="target")
    for key, said in _SETTINGS.items():
        if config.get(key) not in (None, False, [], {}):
            raise _no_room(said, _MERGE)
    if config.get("bias", "none") != "none":
        raise _no_room("holds biases of the base that were trained", _MERGE)


def _refuse_others(adapter: LoraAdapter[Tensor]) -> None:
    """Raise InvalidInput for a tensor that is neither A nor B."""
    parts = (item for module in adapter.modules.values() for item in module.parts.items())
    others = [(tensor.name, part) for part, tensor in parts if part in ("B.bias", "magnitude_vector")]
    for name, kind in [*((name, variant_setting(name)) for name in adapter.whole), *others]:
        what = f"the tensor {name[:200]!a}" + (f" of {kind}" if kind else "")
        raise _no_room(f"holds {what} (neither A nor B)", _MERGE)


def _alpha(config: Mapping[str, Any]) -> float:
    """Return the α of the file as a 32-bit number: the config's, unless llama.cpp would take it for none."""
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, (int, float)) or not 1e-30 < alpha < 1e30:
        return 1.0
    rounded: float = struct.unpack("<f", struct.pack("<f", alpha))[0]
    return rounded


def _module(adapter: LoraAdapter[Tensor], module: str, model: GgufModel) -> GgufModule:
    name, kind = _named(module, model)
    (a, b), embedding = adapter.modules[module].pair(), adapter.modules[module].embedding
    out, into = model.shape_of(kind)
    if embedding:
        out, into = into, out
    if embedding != (kind == "embed_tokens") or len(a.shape) != 2 or (b.shape[0], a.shape[1]) != (out, into):
        raise InvalidInput(
            f"{module!r} of the adapter is for a weight of {b.shape[0]}×{a.shape[-1]}, but the base's is {out}×{into}; give the "
            "base that it was trained over",
            param="base",
        )
    if b.shape != (out, a.shape[0]):
        raise VerificationFailed(f"{module!r} has A and B of different ranks; pull the version again")
    scale = adapter.product(module).scale
    if scale.said != scale.rank:
        raise VerificationFailed(
            f"{module!r} has the rank {scale.rank}, but {CONFIG_FILE} says {scale.said}; save the adapter again with PEFT"
        )
    return GgufModule(module, name, a, b, scale.rank, scale.scale, model.heads_of(kind), embedding)


def _named(module: str, model: GgufModel) -> tuple[str, str]:
    """Return a module's name in a model of text alone, and its kind, which `GgufModel.shape_of` takes."""
    short = _TEXT_PART.sub("", module, count=1)
    if short in ("embed_tokens", "lm_head"):
        if model.tied:
            other = "head" if short == "embed_tokens" else "embeddings"
            raise InvalidInput(
                f"the adapter adapts {short}, which the base ties to its {other}, and llama.cpp has only one tensor for both; "
                f"{_MERGE}",
                param="target",
            )
        return ("model.embed_tokens" if short == "embed_tokens" else short), short
    found = _LAYER.fullmatch(short)
    try:
        kind = found[2] if found is not None else ""
        model.shape_of(kind)
    except KeyError:
        raise _no_room(f"adapts {module[:200]!a} (not a linear module of the text layers)", _MERGE) from None
    number = int(found[1]) if found is not None else 0
    if number >= model.layers:
        raise InvalidInput(
            f"the adapter has {module!r}, but the base has {model.layers} layers; give the base that it was trained over",
            param="base",
        )
    return f"model.layers.{number}.{kind}", kind


def text_module(module: str) -> str | None:
    """Return the kind of a module of the text part, which `GgufModel.shape_of` takes; None for any other."""
    short = _TEXT_PART.sub("", module, count=1)
    if short in ("embed_tokens", "lm_head"):
        return short
    found = _LAYER.fullmatch(short)
    return found[2] if found is not None and found[2] in LAYER_MODULES else None


def _no_room(what: str, advice: str) -> InvalidInput:
    return InvalidInput(f"the adapter {what}, which a GGUF adapter can't hold; {advice}", param="target")
