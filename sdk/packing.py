"""From a PEFT folder to what a version is made of: a canonical config, the weights, a manifest, a LoRA record."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdk.errors import InvalidInput, NotFound
from sdk.schemas.codes import explain_validation
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training import MAX_OTHER_CHARACTERS, MAX_OTHER_SETTINGS, JsonScalar, LoraConfig
from sdk.transfer import hash_file, read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

#: Keys that import, fetch or run something when a library reads them; they are dropped, and said.
_DROPPED_KEYS = ("auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code")
#: The marker of a folder that was pulled says nothing that the version does not.
_NOT_LEFT_OUT = (CONFIG_FILE, WEIGHTS_FILE, ".adapterctl")
#: Keys that differ between equal trainings.
_UNSTABLE_KEYS = ("peft_version",)
#: Keys of corda_config that name files of the machine that trained; what was in them went into the weights.
_FILE_KEYS = ("cache_file", "covariance_file")

#: Keys of a config that have a field of their own in the LoRA record, most of them by the same name.
_RECORDED_KEYS = LoraConfig.model_fields.keys() - {"rank", "alpha", "dropout", "init", "other"} | {
    "r",
    "lora_alpha",
    "lora_dropout",
    "init_lora_weights",
}
#: Keys that say nothing of the adapter itself, or what a version says elsewhere.
_UNRECORDED_KEYS = {
    *_DROPPED_KEYS,
    *_UNSTABLE_KEYS,
    *_FILE_KEYS,
    "peft_type",
    "inference_mode",
    "runtime_config",
    "base_model_name_or_path",
    "revision",
}
#: What PEFT takes the remaining settings to be where nothing else is said.
_PEFT_DEFAULTS: dict[str, JsonScalar] = {"use_qalora": False, "qalora_group_size": 16, "ensure_weight_tying": False}

#: `name` or `owner/name`, as a model hub spells it; a path of a folder has more parts, or begins otherwise.
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Package:
    """An adapter that is ready to be sent."""

    manifest: Manifest
    lora: LoraConfig
    #: SHA-256 to the local file that has it.
    sources: dict[str, Path]
    #: Files of the folder that a version doesn't need, and config keys that were dropped.
    left_out: list[str]
    #: What neither the config nor the caller says: "base_revision".
    unknown: list[str]
    #: The base's name on a model hub, where the config gives one and not a path of the machine that trained.
    named_base: str | None


def pack_adapter(
    folder: Path, *, base_id: str, base_revision: str | None, base_fingerprint: str, staging: Path
) -> Package:
    """Read a folder that PEFT's save_pretrained wrote; the canonical config is written into `staging`.

    Raises NotFound for a missing folder or file, InvalidInput for pickled weights or a config that is no LoRA.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; give the one that PEFT's save_pretrained wrote", param="path")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise InvalidInput(
                f"{folder / 'adapter_model.bin'} is pickled and can run code; save the adapter again with "
                "model.save_pretrained(FOLDER, safe_serialization=True)",
                param="path",
            )
        raise NotFound(
            f"{folder} has no {WEIGHTS_FILE}; give the folder that PEFT's save_pretrained wrote", param="path"
        )
    config = _read_config(folder / CONFIG_FILE)
    lora = lora_of(config)
    dropped = [f"{CONFIG_FILE}: {key}" for key in _DROPPED_KEYS if config.pop(key, None) is not None]
    canonical = staging / CONFIG_FILE
    named_base = _hub_name(config.get("base_model_name_or_path"))
    revision = config.get("revision") or base_revision
    canonical.write_text(_canonical(config, named_base or base_id, revision))
    files = []
    sources = {}
    for name, path in ((CONFIG_FILE, canonical), (WEIGHTS_FILE, weights)):
        sha256, size = hash_file(path)
        files.append(ManifestFile(path=name, size_bytes=size, sha256=sha256))
        sources[sha256] = path
    others = sorted(path.name for path in folder.iterdir() if path.name not in _NOT_LEFT_OUT)
    manifest = Manifest(kind="adapter", base_fingerprint=base_fingerprint, files=files)
    return Package(
        manifest=manifest,
        lora=lora,
        sources=sources,
        left_out=[*others, *dropped],
        unknown=[] if revision else ["base_revision"],
        named_base=named_base,
    )


def read_origin(folder: Path) -> tuple[str | None, str | None]:
    """Return the base that a folder's config names, if it is no path, and its revision. Raises NotFound, InvalidInput."""
    config = _read_config(folder / CONFIG_FILE)
    revision = config.get("revision")
    return _hub_name(config.get("base_model_name_or_path")), revision if isinstance(revision, str) else None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"there is no {path}; give the folder that PEFT's save_pretrained wrote", param="path")
    try:
        config = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is no JSON; save the adapter again", param="path") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidInput(f"{path} describes no LoRA adapter; only these are kept here", param="path")
    return config


def lora_of(config: dict[str, Any]) -> LoraConfig:
    """Return the LoRA record that an `adapter_config.json` says. Raises InvalidInput for values that it can't have."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if not isinstance(targets, list):
        raise InvalidInput(
            f"{CONFIG_FILE} gives target_modules as a pattern; save the adapter with a list of module names",
            param="target_modules",
        )
    try:
        return LoraConfig.model_validate(
            {
                "rank": config.get("r"),
                "alpha": _number(config.get("lora_alpha")),
                "dropout": _number(config.get("lora_dropout", 0.0)),
                "target_modules": sorted(set(targets)),
                "rank_pattern": config.get("rank_pattern") or {},
                "alpha_pattern": {key: _number(value) for key, value in (config.get("alpha_pattern") or {}).items()},
                "modules_to_save": sorted(config.get("modules_to_save") or []),
                "bias": config.get("bias", "none"),
                "init": config.get("init_lora_weights", True),
                "use_rslora": bool(config.get("use_rslora", False)),
                "use_dora": bool(config.get("use_dora", False)),
                "task_type": config.get("task_type"),
                "fan_in_fan_out": config.get("fan_in_fan_out") or False,
                "lora_bias": config.get("lora_bias") or False,
                "exclude_modules": [] if isinstance(excluded, str) else sorted(set(excluded or [])),
                "layers_to_transform": sorted(set(_listed(config.get("layers_to_transform")))),
                "layers_pattern": _listed(config.get("layers_pattern")),
                "target_parameters": sorted(set(_listed(config.get("target_parameters")))),
                "layer_replication": config.get("layer_replication") or [],
                "trainable_token_indices": config.get("trainable_token_indices") or [],
                "alora_invocation_tokens": config.get("alora_invocation_tokens") or [],
                "other": _other_settings(config),
            }
        )
    except (ValidationError, TypeError, AttributeError) as error:
        said = explain_validation(error.errors())[0] if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(
            f"{CONFIG_FILE} is not as PEFT writes it ({said}); save the adapter again", param="path"
        ) from error


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _listed(value: Any) -> list[Any]:
    """PEFT takes one value for a list of it, and null for none."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _other_settings(config: dict[str, Any]) -> dict[str, JsonScalar]:
    """What a config says beyond the record's own fields and PEFT's defaults, sorted; nested values by dotted names."""
    waiting = [(key, value) for key, value in config.items() if key not in _RECORDED_KEYS]
    if isinstance(config.get("exclude_modules"), str):
        # A text is a pattern here, which no list of names can say.
        waiting.append(("exclude_modules", config["exclude_modules"]))
    found: dict[str, JsonScalar] = {}
    while waiting:
        key, value = waiting.pop()
        if value is None or key.rpartition(".")[2] in _UNRECORDED_KEYS:
            continue
        # The types are compared too: False equals 0.
        if key in _PEFT_DEFAULTS and (type(value), value) == (type(_PEFT_DEFAULTS[key]), _PEFT_DEFAULTS[key]):
            continue
        if isinstance(value, (dict, list)):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            waiting.extend((f"{key}.{name}", part) for name, part in parts)
        else:
            found[_shortened(key)] = _shortened(value) if isinstance(value, str) else value
    return dict(sorted(found.items())[:MAX_OTHER_SETTINGS])


def _shortened(text: str) -> str:
    """Cut a long text, and show that it was; the whole stands in the version's own config."""
    return text if len(text) <= MAX_OTHER_CHARACTERS else text[: MAX_OTHER_CHARACTERS - 1] + "…"


def _hub_name(named: Any) -> str | None:
    return named if isinstance(named, str) and _HUB_NAME.fullmatch(named) and ".." not in named else None


def _canonical(config: dict[str, Any], base_name: str, revision: Any) -> str:
    """The bytes of a config that says nothing of the machine or the moment: equal trainings have equal ones."""
    stable = {key: value for key, value in config.items() if key not in _UNSTABLE_KEYS}
    for key in ("target_modules", "modules_to_save", "exclude_modules", "target_parameters"):
        if isinstance(stable.get(key), list):
            stable[key] = sorted(set(map(str, stable[key])))
    if isinstance(corda := stable.get("corda_config"), dict):
        stable["corda_config"] = {key: value for key, value in corda.items() if key not in _FILE_KEYS}
    stable["base_model_name_or_path"] = base_name
    stable["revision"] = revision
    return json.dumps(stable, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
