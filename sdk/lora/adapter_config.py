"""An `adapter_config.json` and the LoRA record of a version, each made from the other.

>>> record = lora_of({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]})
>>> record.rank, record.alpha, record.target_modules
(8, 16.0, ['q_proj', 'v_proj'])
>>> config = config_of(record, base_name="tiny", base_revision=None, fan_in_fan_out=False)
>>> lora_of(config) == record
True
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.formats.peft_config import DROPPED_KEYS, MAX_CONFIG_BYTES, Reason, examine
from sdk.schemas.codes import explain_validation
from sdk.schemas.lora_config import MAX_OTHER_CHARACTERS, MAX_OTHER_SETTINGS, LoraConfig
from sdk.schemas.wire import JsonScalar

#: Keys that differ between equal trainings.
_UNSTABLE_KEYS = ("peft_version",)
#: Lists of names whose order means nothing: PEFT writes them in whatever order its process had them.
_SETS = ("target_modules", "modules_to_save", "exclude_modules", "target_parameters", "layers_to_transform")

#: Fields of the LoRA record that have another name in a config.
_KEY_OF = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "init": "init_lora_weights"}
#: Keys of a config that have a field of their own in the LoRA record, most of them by the same name.
_RECORDED_KEYS = LoraConfig.model_fields.keys() - {*_KEY_OF, "other"} | set(_KEY_OF.values())
#: Keys that say nothing about the adapter itself, or that a version records elsewhere.
_UNRECORDED_KEYS = {
    *DROPPED_KEYS,
    *_UNSTABLE_KEYS,
    "peft_type",
    "inference_mode",
    "runtime_config",
    "base_model_name_or_path",
    "revision",
}
#: PEFT's defaults for the remaining settings.
_PEFT_DEFAULTS: dict[str, JsonScalar] = {"use_qalora": False, "qalora_group_size": 16, "ensure_weight_tying": False}


def config_of(lora: LoraConfig, *, base_name: str, base_revision: str | None, fan_in_fan_out: bool) -> dict[str, Any]:
    """Return the config with which PEFT loads an adapter that was trained with this record."""
    # Written only if they are set; otherwise PEFT uses its defaults.
    seldom = {
        "target_parameters": sorted(lora.target_parameters),
        "trainable_token_indices": lora.trainable_token_indices,
    }
    return {
        **{key: value for key, value in seldom.items() if value},
        "alpha_pattern": dict(lora.alpha_pattern),
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "bias": lora.bias,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": lora.init,
        "layers_pattern": None,
        "layers_to_transform": None,
        # vLLM wants alpha to be an integer whenever its value is one.
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": sorted(lora.modules_to_save) or None,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": dict(lora.rank_pattern),
        "revision": base_revision,
        "target_modules": sorted(lora.target_modules),
        "task_type": lora.task_type,
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
    }


def canonical_text(config: Mapping[str, Any]) -> str:
    """Return a config as a file without traces of the machine or the time: equal trainings give equal files."""
    stable = {key: value for key, value in config.items() if key not in _UNSTABLE_KEYS}
    for key in _SETS:
        if isinstance(stable.get(key), list):
            stable[key] = sorted(set(stable[key]))
    return json.dumps(stable, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values by the names of the LoRA record's fields, except `other`; they are not checked.

    Keys that are missing, and most that are null, get PEFT's defaults. Names of modules are sorted;
    `target_modules` is None if the config has a pattern. Raises TypeError or AttributeError for values that no LoRA
    config has; `sdk.formats.peft_config.examine` finds these.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    return {
        "rank": config.get("r"),
        "alpha": _number(config.get("lora_alpha")),
        "dropout": _number(config.get("lora_dropout", 0.0)),
        "target_modules": sorted(set(targets)) if isinstance(targets, list) else None,
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
    }


def lora_of(config: Mapping[str, Any]) -> LoraConfig:
    """Return the LoRA record of an `adapter_config.json`. Raises InvalidInput for values that it can't have."""
    targets = config.get("target_modules")
    if targets is None:
        raise InvalidInput(
            f"{CONFIG_FILE} names no target_modules; save the adapter with a list of module names",
            param="target_modules",
        )
    if not isinstance(targets, list):
        raise InvalidInput(
            f"{CONFIG_FILE} gives target_modules as a pattern; save the adapter with a list of module names",
            param="target_modules",
        )
    try:
        return LoraConfig.model_validate({**recorded(config), "other": _other_settings(config)})
    except (ValidationError, TypeError, AttributeError) as error:
        said = _explained(error) if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(
            f"{CONFIG_FILE} is not as PEFT writes it ({said}); save the adapter again", param="path"
        ) from error


def _explained(error: ValidationError) -> str:
    """Say what is wrong, by the names that the file has."""
    errors = [{**one, "loc": tuple(_KEY_OF.get(str(part), part) for part in one["loc"])} for one in error.errors()]
    return explain_validation(errors)[0]


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _listed(value: Any) -> list[Any]:
    """PEFT reads a single value as a list of one, and null as an empty list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _other_settings(config: Mapping[str, Any]) -> dict[str, JsonScalar]:
    """A config's settings beyond the record's own fields that differ from PEFT's defaults, sorted; nested values by
    dotted names.
    """
    waiting = [(key, value) for key, value in config.items() if key not in _RECORDED_KEYS]
    if isinstance(config.get("exclude_modules"), str):
        # A string is a pattern here, which no list of names can express.
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
    """Shorten a long text visibly; the version's own config has all of it."""
    return text if len(text) <= MAX_OTHER_CHARACTERS else text[: MAX_OTHER_CHARACTERS - 1] + "…"


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an adapter, each value of the kind that PEFT writes.

    Raises NotFound without it or the weights, VerificationFailed for one that is broken, InvalidInput for patterns that can't be tried.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise NotFound(
            f"{folder} has no {CONFIG_FILE} with {WEIGHTS_FILE} next to it; give the folder of an adapter",
            param="target",
        )
    with path.open("rb") as file:
        raw = file.read(MAX_CONFIG_BYTES + 1)
    try:
        config = json.loads(raw) if len(raw) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise VerificationFailed(f"{path} is not the configuration of an adapter; save the adapter again with PEFT")
    for finding in examine(config):
        # This config is passed to no library, so keys that would run something do nothing here.
        if finding.reason is Reason.VALUE and finding.path != ("base_model_name_or_path",):
            raise VerificationFailed(
                f"{path}: {finding.key!a} is not {finding.wanted}; save the adapter again with PEFT"
            )
        if finding.reason is Reason.PATTERN:
            raise InvalidInput(
                f"{path}: {finding.key} has {finding.pattern!a}, which can't be tried: {finding.why}; push it with: "
                "adapterctl push --expand-patterns",
                param="target",
            )
    return config


def harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without keys that could run something, name a path on a machine, or aren't settings of PEFT."""
    found = {finding.path[0] for finding in examine(config)}
    return {key: value for key, value in config.items() if key not in found}
