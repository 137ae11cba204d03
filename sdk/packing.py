"""From a PEFT folder to what a version is made of: a canonical config, the weights, a manifest, a LoRA record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdk.errors import InvalidInput, NotFound
from sdk.schemas.codes import explain_validation
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.refs import is_folder
from sdk.schemas.training import LoraConfig
from sdk.transfer import hash_file, read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

#: Keys that import, fetch or run something when a library reads them; they are dropped, and said.
_DROPPED_KEYS = ("auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code")
#: The marker of a folder that was pulled says nothing that the version does not.
_NOT_LEFT_OUT = (CONFIG_FILE, WEIGHTS_FILE, ".adapterctl")
#: Keys that differ between equal trainings.
_UNSTABLE_KEYS = ("peft_version",)


@dataclass(frozen=True)
class Package:
    """An adapter that is ready to be sent."""

    manifest: Manifest
    lora: LoraConfig
    #: SHA-256 to the local file that has it.
    sources: dict[str, Path]
    #: Files of the folder that a version doesn't need, and config keys that were dropped.
    left_out: list[str]


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
    canonical.write_text(_canonical(config, base_id, base_revision))
    files = []
    sources = {}
    for name, path in ((CONFIG_FILE, canonical), (WEIGHTS_FILE, weights)):
        sha256, size = hash_file(path)
        files.append(ManifestFile(path=name, size_bytes=size, sha256=sha256))
        sources[sha256] = path
    others = sorted(path.name for path in folder.iterdir() if path.name not in _NOT_LEFT_OUT)
    manifest = Manifest(kind="adapter", base_fingerprint=base_fingerprint, files=files)
    return Package(manifest=manifest, lora=lora, sources=sources, left_out=[*others, *dropped])


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
    targets = config.get("target_modules")
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
            }
        )
    except (ValidationError, TypeError, AttributeError) as error:
        said = explain_validation(error.errors())[0] if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(
            f"{CONFIG_FILE} is not as PEFT writes it ({said}); save the adapter again", param="path"
        ) from error


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _canonical(config: dict[str, Any], base_id: str, base_revision: str | None) -> str:
    """The bytes of a config that says nothing of the machine or the moment: equal trainings have equal ones."""
    stable = {key: value for key, value in config.items() if key not in _UNSTABLE_KEYS}
    for key in ("target_modules", "modules_to_save", "exclude_modules", "target_parameters"):
        if isinstance(stable.get(key), list):
            stable[key] = sorted(set(map(str, stable[key])))
    named = stable.get("base_model_name_or_path")
    if not isinstance(named, str) or is_folder(named) or Path(named).is_absolute() or "\\" in named:
        stable["base_model_name_or_path"] = base_id
    if stable.get("revision") is None:
        stable["revision"] = base_revision
    return json.dumps(stable, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
