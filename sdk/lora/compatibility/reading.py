"""The facts about a version, from the registry's records, or about a folder that PEFT saved, from its files and its base's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput, NotFound
from sdk.formats.adapter_files import (
    CONFIG_FILE,
    GENERATION_FILE,
    HOLDS_EMBEDDINGS,
    MOSTLY_WHOLE,
    RENDERING_FILE,
    TEMPLATE_FILE,
    WEIGHTS_FILE,
    base_parameter,
    lora_key,
    unwrapped,
)
from sdk.formats.base_files import CONFIG_FILE as BASE_CONFIG_FILE
from sdk.formats.peft_config import MAX_CONFIG_BYTES, Reason, examine
from sdk.formats.peft_unusable import unusable
from sdk.lora.adapter_config import lora_of
from sdk.lora.compatibility.contents import contradiction
from sdk.lora.compatibility.facts import EMBEDDINGS, AdapterFacts
from sdk.lora.compatibility.words import quoted
from sdk.lora.tensors import Tensor, read_tensors
from sdk.lora.trained_tokens import highest_token
from sdk.schemas.catalog import VersionView
from sdk.schemas.lora_config import LoraConfig

#: Settings that say how A and B were initialised or trained, and nothing about what they are.
_HARMLESS = ("eva_config", "corda_config", "loftq_config", "lora_ga_config", "runtime_config", "qalora_group_size")

#: Facts that are fields of the record.
_AS_RECORDED = (
    "rank",
    "alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "bias",
    "lora_bias",
    "fan_in_fan_out",
)

#: A model's name on a hub.
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
#: Ties the adapters of embeddings and head if they are adapted.
_TYING = "ensure_weight_tying"


def facts_of_version(version: VersionView, base_config: Mapping[str, Any] | None) -> AdapterFacts:
    """Return what is known about a version; `base_config` is its base's config.json, None if it can't be read.

    Whether its embeddings have another number of tokens was determined when it was published. Raises InvalidInput for a
    merged model, which is not an adapter.
    """
    if version.kind != "adapter":
        raise InvalidInput(
            f"{version.ref} is a {version.kind} model and no adapter; an engine that has its architecture serves it",
            param="ref",
        )
    whole = any(warning.startswith(MOSTLY_WHOLE) for warning in version.warnings)
    paths = {file.path for file in version.files}
    rendering = None if version.dataset is None else version.dataset.rendering
    name = version.adapter.rpartition("/")[2]
    return AdapterFacts(
        **_of_lora(version.lora),
        **_of_base(base_config),
        architecture=version.base.architecture or None,
        base_said=version.base.id,
        vocabulary_changed=any(warning.startswith(HOLDS_EMBEDDINGS) for warning in version.warnings)
        or _adds_rows(version.lora, base_config),
        saved_embeddings=whole and not version.lora.modules_to_save,
        method=version.method,
        quantization=None if version.quantization is None else version.quantization.type,
        has_template=TEMPLATE_FILE in paths,
        has_generation=GENERATION_FILE in paths,
        stop_ids=None if rendering is None else tuple(rendering.stop_ids),
        ref=version.ref,
        name=name,
        folder=f"./{name}",
    )


def facts_of_folder(folder: Path, base: Path | None) -> AdapterFacts:
    """Return what is known about a folder that PEFT saved, and about its base if its folder is given; the network isn't used.

    Raises NotFound, InvalidInput for a config that isn't a LoRA's, VerificationFailed for weights that can't be read.
    """
    config = _read(folder / CONFIG_FILE)
    if config.get("peft_type") != "LORA":
        raise InvalidInput(f"{folder / CONFIG_FILE} describes no LoRA adapter; only these are judged", param="ref")
    for finding in examine(config):
        # This config is passed to no library, so a path to a base, or a key that would run something, does nothing here.
        if finding.reason is Reason.VALUE and finding.path != ("base_model_name_or_path",):
            raise InvalidInput(
                f"{folder / CONFIG_FILE}: {finding.key!a} is not {finding.wanted}; save the adapter again with PEFT",
                param="ref",
            )
    pattern = isinstance(config.get("target_modules"), str)
    lora = lora_of({**config, "target_modules": ["pattern"]} if pattern else config)
    base_config = None if base is None else _read(base / BASE_CONFIG_FILE)
    tensors = _tensors(folder / WEIGHTS_FILE)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    rendering = _read(folder / RENDERING_FILE) if (folder / RENDERING_FILE).is_file() else {}
    stops = rendering.get("stop_ids")
    return AdapterFacts(
        **{**_of_lora(lora), "unusable": unusable(config), **({"target_modules": None} if pattern else {})},
        **_of_base(base_config),
        architecture=_architecture(base_config),
        **_called(base, config.get("base_model_name_or_path")),
        modules=tuple(sorted({key.module for name in shapes if (key := lora_key(name))})),
        contradiction=contradiction(tensors.values(), config, lora, base_config),
        vocabulary_changed=_adds_rows(lora, base_config) or _holds_other_embeddings(shapes, base_config),
        saved_embeddings=any(_is_whole(name, tuple(lora.modules_to_save)) for name in shapes),
        has_template=(folder / TEMPLATE_FILE).is_file(),
        has_generation=(folder / GENERATION_FILE).is_file(),
        template_is_base=None if base is None else _same(folder / TEMPLATE_FILE, base / TEMPLATE_FILE),
        stop_ids=tuple(stops) if isinstance(stops, list) else None,
        ref=_path(folder),
        name=_plain(folder.resolve().name),
        folder=_path(folder),
        is_folder=True,
    )


def _of_lora(lora: LoraConfig) -> dict[str, Any]:
    said = {
        "init_lora_weights": lora.init,
        "layer_replication": lora.layer_replication,
        "alora_invocation_tokens": lora.alora_invocation_tokens,
        **{name.partition(".")[0]: value for name, value in lora.other.items()},
    }
    embeds = lora.modules_to_save or EMBEDDINGS & {name.rpartition(".")[2] for name in lora.target_modules}
    others = {name.partition(".")[0] for name, value in lora.other.items() if value not in (None, False)}
    return {
        **{name: getattr(lora, name) for name in _AS_RECORDED},
        "target_modules": tuple(lora.target_modules),
        "excludes": bool(lora.exclude_modules),
        "modules_to_save": tuple(lora.modules_to_save),
        "target_parameters": tuple(lora.target_parameters),
        "trained_tokens": bool(lora.trainable_token_indices),
        "unusable": unusable(said),
        "other": tuple(sorted(others - set(_HARMLESS) - (set() if embeds else {_TYING}))),
    }


def _called(base: Path | None, named: object) -> dict[str, Any]:
    """The base of a folder as commands take it: the base's folder, or else its name on a hub if the adapter gives one."""
    if base is not None:
        return {"base": _path(base), "base_folder": _path(base)}
    if not isinstance(named, str) or not named:
        return {}
    if Path(named).is_absolute() and Path(named).is_dir():
        return {"base": quoted(named), "base_folder": quoted(named), "base_said": named}
    return {"base_said": named, **({"base": named} if _HUB_NAME.fullmatch(named) else {})}


def _of_base(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a base's config.json says; None for everything that it leaves to a library's defaults."""
    if not config:
        return {"tied": None, "base_stop_ids": None}
    text = config.get("text_config")
    both = {**(text if isinstance(text, dict) else {}), **config}
    tied, stops = both.get("tie_word_embeddings"), both.get("eos_token_id")
    listed = stops if isinstance(stops, list) else [stops]
    known = tuple(stop for stop in listed if type(stop) is int)
    return {"tied": tied if isinstance(tied, bool) else None, "base_stop_ids": known or None}


def _architecture(config: Mapping[str, Any] | None) -> str | None:
    listed = (config or {}).get("architectures")
    return listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], str) else None


def _tensors(weights: Path) -> dict[str, Tensor]:
    if not weights.is_file():
        raise NotFound(f"there is no {weights}; give the folder that PEFT's save_pretrained wrote", param="ref")
    return read_tensors(weights)


def _is_whole(name: str, saved: tuple[str, ...]) -> bool:
    """Whether a tensor is an embedding that LoRA doesn't wrap and that modules_to_save doesn't name."""
    module, _, last = (base_parameter(name) or "").rpartition(".")
    module = module.rpartition(".")[2]
    return lora_key(name) is None and last == "weight" and module in EMBEDDINGS and module not in saved


def _holds_other_embeddings(
    shapes: Mapping[str, tuple[int, ...]], base_config: Mapping[str, Any] | None
) -> bool | None:
    """Whether the file has embeddings, or their A and B, for another number of tokens than the base has.

    None if it has some and the base's number is unknown.
    """
    rows = {count for name, shape in shapes.items() if (count := _tokens(name, shape)) is not None}
    if not rows:
        return False
    vocabulary = _vocabulary(base_config)
    return rows != {vocabulary} if vocabulary is not None else None


def _adds_rows(lora: LoraConfig, base_config: Mapping[str, Any] | None) -> bool:
    """Whether it trains tokens that the base has no row for."""
    vocabulary = _vocabulary(base_config)
    return vocabulary is not None and highest_token(lora.trainable_token_indices) >= vocabulary


def _vocabulary(base_config: Mapping[str, Any] | None) -> int | None:
    text = (base_config or {}).get("text_config")
    found = {**(text if isinstance(text, dict) else {}), **(base_config or {})}.get("vocab_size")
    return found if isinstance(found, int) else None


def _tokens(name: str, shape: tuple[int, ...]) -> int | None:
    """The number of tokens for which a tensor has rows or columns; None if it isn't an embedding."""
    key = lora_key(name)
    if key is not None:
        if key.part == "embedding_A":
            return shape[1]
        return shape[0] if key.part == "B" and key.module.rpartition(".")[2] in EMBEDDINGS else None
    parameter = unwrapped(base_parameter(name) or "")
    module, _, last = parameter.rpartition(".")
    return shape[0] if last == "weight" and module.rpartition(".")[2] in EMBEDDINGS else None


def _same(one: Path, two: Path) -> bool | None:
    if not one.is_file() or not two.is_file():
        return None
    return one.read_bytes() == two.read_bytes()


def _path(folder: Path) -> str:
    """A folder as a word of a shell command that can't be mistaken for a name."""
    return quoted(str(folder) if folder.is_absolute() else f"./{folder}")


def _plain(name: str) -> str:
    """A folder's name as it can be written in a command."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name) or "adapter"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"there is no {path}; give a folder that has it", param="ref")
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= 16 * MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} is not a JSON object; save the folder again", param="ref")
    return found
