"""What an `adapter_config.json` may contain: one list of keys, used by the SDK to clean it and by the registry to refuse it.

The keys are those of LoraConfig in PEFT 0.10 to 0.21, each with the kind of value that it may have. Unlisted keys are
found at any depth, since nested settings have lists of their own:

>>> for finding in examine({"r": 8, "auto_mapping": {"parent_library": "os"}, "eva_config": {"rho": 2.0, "more": 1}}):
...     print(finding.key, finding.reason)
auto_mapping runs
eva_config.more unknown
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from sdk.formats.expression_syntax import MAX_CHARACTERS
from sdk.formats.peft_patterns import SELECTION_KEYS, unfit

#: No configuration comes near this; longer ones are not read.
MAX_CONFIG_BYTES = 256 * 1024
_MAX_INTEGER = 2**53
#: The most names in one list. PEFT compares each with every module, and with each other.
_MAX_NAMES = 4096

#: PyTorch's names of modules and parameters.
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,499}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,99}")
#: A commit, tag or branch; a hub's refs have parts, as in refs/pr/3.
_REVISION = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+\-]*/){0,5}[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,199}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class Reason(StrEnum):
    """Why a key can't be kept as it is."""

    #: It would make a library import, fetch or run something, or look for a file of the machine that trained.
    RUNS = "runs"
    #: It isn't one of LoRA's settings.
    UNKNOWN = "unknown"
    #: Its value is of another kind than PEFT writes.
    VALUE = "value"
    #: It has an expression that PEFT might try forever, or too many to try.
    PATTERN = "pattern"


class UnusableKey(NamedTuple):
    """One key that can't be kept."""

    #: The key within its settings: ("corda_config", "cache_file").
    path: tuple[str, ...]
    reason: Reason
    value: Any
    #: What the value must be, to follow "is to be".
    wanted: str
    #: For a pattern: the pattern, and what is wrong with it.
    pattern: str = ""
    why: str = ""

    @property
    def key(self) -> str:
        """The path with dots, cut for a message; a key in an error may be anything."""
        return ".".join(part if len(part) <= 80 else part[:79] + "…" for part in self.path)


@dataclass(frozen=True)
class _Kind:
    """A kind of value; null stands for PEFT's default and is allowed for every kind."""

    wanted: str
    fits: Callable[[Any], bool]


def names_place(value: Any) -> bool:
    """Whether a text, or one in a list, is a path or a URL."""
    if isinstance(value, list):
        return any(map(names_place, value))
    return isinstance(value, str) and (
        value.startswith(("/", "~", "./", "../", ".\\", "..\\", "\\\\"))
        or "://" in value
        or _DRIVE.match(value) is not None
        or ".." in value.split("/")
    )


def says_nothing(value: Any) -> bool:
    """Whether a value is null, false or empty."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def is_base_name(value: Any) -> bool:
    """Whether a base has a name as in registries and on hubs, not a path or URL, from which anything would be loaded."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= 200
        and value.isprintable()
        and not value.startswith(("/", "~", "."))
        and ".." not in value.split("/")
        and not {"\\", ":"} & set(value)
    )


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) <= _MAX_INTEGER


def _is_number(value: Any) -> bool:
    # JSON has no infinity, but 1e999 is parsed as one.
    return _is_whole(value) or (type(value) is float and math.isfinite(value))


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_module(value: Any) -> bool:
    return isinstance(value, str) and _MODULE.fullmatch(value) is not None and ".." not in value


def _is_pattern(value: Any) -> bool:
    """A regular expression over module names, which never contain a slash."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_CHARACTERS
        and value.isprintable()
        and "/" not in value
        and not names_place(value)
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_revision(value: Any) -> bool:
    return value == "" or (isinstance(value, str) and _REVISION.fullmatch(value) is not None and ".." not in value)


def _listed(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _names(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= _MAX_NAMES and all(map(fits, value))


def _mapped(key: Callable[[Any], bool], fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(key, value)) and all(map(fits, value.values()))


def _either(*fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(fit(value) for fit in fits)


_FLAG = _Kind("true or false", _is_flag)
_WHOLE = _Kind("a whole number", _is_whole)
_NUMBER = _Kind("a finite number", _is_number)
_NAME = _Kind("a word", _is_word)
_NAMES = _Kind("a list of names, with no paths or URLs", _names(_either(_is_module, _is_word)))
_MODULES = _Kind(f"a list of at most {_MAX_NAMES} module names", _names(_is_module))
_SELECTION = _Kind(
    f"a list of at most {_MAX_NAMES} module names, or one pattern", _either(_names(_is_module), _is_pattern)
)
_WHOLES = _Kind("a list of whole numbers", _listed(_is_whole))
_RANKS = _Kind("an object of module names or patterns and numbers", _mapped(_is_pattern, _is_number))

#: Keys that say what to import, fetch or run, at any depth. Null, false and empty ones do nothing.
_RUNNING = ("auto_mapping", "auto_map", "custom_code", "megatron_config", "megatron_core", "trust_remote_code")
#: Keys that name files of the machine that trained; their contents went into the weights.
_FILES = ("cache_file", "covariance_file")
#: All keys that are dropped, wherever they occur.
DROPPED_KEYS = frozenset((*_RUNNING, *_FILES))

#: Key to the kind of its value, or to the keys of its nested settings.
KEYS: Mapping[str, _Kind | Mapping[str, _Kind]] = {
    "peft_type": _NAME,
    "task_type": _NAME,
    "peft_version": _NAME,
    "base_model_name_or_path": _Kind("the name of a base, not a path or URL", is_base_name),
    "revision": _Kind("a commit, tag or branch", _is_revision),
    "inference_mode": _FLAG,
    "r": _WHOLE,
    "lora_alpha": _NUMBER,
    "lora_dropout": _NUMBER,
    "target_modules": _SELECTION,
    "exclude_modules": _SELECTION,
    "target_parameters": _MODULES,
    "modules_to_save": _MODULES,
    "rank_pattern": _RANKS,
    "alpha_pattern": _RANKS,
    "bias": _NAME,
    "fan_in_fan_out": _FLAG,
    "lora_bias": _FLAG,
    "init_lora_weights": _Kind("true, false or a word", _either(_is_flag, _is_word)),
    "layers_to_transform": _Kind("a whole number or a list of them", _either(_is_whole, _listed(_is_whole))),
    "layers_pattern": _Kind(
        "a module name or a list of them", lambda value: value == "" or _is_module(value) or _names(_is_module)(value)
    ),
    "layer_replication": _Kind(
        "a list of pairs of whole numbers", _listed(lambda pair: _listed(_is_whole)(pair) and len(pair) == 2)
    ),
    "trainable_token_indices": _Kind(
        "a list of whole numbers, or an object of module names and such lists",
        _either(_listed(_is_whole), _mapped(_is_module, _listed(_is_whole))),
    ),
    "alora_invocation_tokens": _WHOLES,
    "use_rslora": _FLAG,
    "use_dora": _FLAG,
    "use_qalora": _FLAG,
    "qalora_group_size": _WHOLE,
    "ensure_weight_tying": _FLAG,
    "runtime_config": {"ephemeral_gpu_offload": _FLAG},
    "loftq_config": {"loftq_bits": _WHOLE, "loftq_iter": _WHOLE},
    "eva_config": {
        "rho": _NUMBER,
        "tau": _NUMBER,
        "use_label_mask": _FLAG,
        "label_mask_value": _WHOLE,
        "whiten": _FLAG,
        "adjust_scaling_factors": _FLAG,
    },
    "corda_config": {
        "corda_method": _NAME,
        "verbose": _FLAG,
        "use_float16_for_covariance": _FLAG,
        "prune_temporary_fields": _FLAG,
    },
    "lora_ga_config": {"direction": _NAME, "scale": _NAME, "stable_gamma": _NUMBER},
    "velora_config": {"num_groups": _WHOLE, "scale": _NUMBER, "init_type": _NAME},
    "monteclora_config": {
        "num_samples": _WHOLE,
        "use_entropy": _FLAG,
        "dirichlet_prior": _NUMBER,
        "sample_scaler": _NUMBER,
        "kl_loss_weight": _NUMBER,
        "buffer_size": _WHOLE,
    },
    "arrow_config": {
        "top_k": _WHOLE,
        "router_temperature": _NUMBER,
        "use_gks": _FLAG,
        "task_adapter_names": _NAMES,
        "gks_adapter_names": _NAMES,
        "rng_seed": _WHOLE,
    },
    "kasa_config": {"beta": _NUMBER, "gamma": _NUMBER},
    "use_bdlora": {
        "target_modules_bd_a": _MODULES,
        "target_modules_bd_b": _MODULES,
        "nblocks": _WHOLE,
        "match_strict": _FLAG,
    },
}


def examine(config: Mapping[str, Any]) -> Iterator[UnusableKey]:
    """Find every key of an `adapter_config.json` that can't be kept as it is.

    Keys that run something are found whatever their value is; empty values do no harm.
    """
    yield from _examine(config, KEYS, ())
    for key, pattern, why in unfit(config):
        wanted = "a list of module names" if key in SELECTION_KEYS else "an object of module names and numbers"
        yield UnusableKey(
            (key,), Reason.PATTERN, config[key], wanted, pattern if len(pattern) <= 80 else pattern[:79] + "…", why
        )


def hazard(raw: bytes) -> str | None:
    """Say, in a clause, why the bytes of an `adapter_config.json` must not be given to a library; None if they may.

    This applies new rules to configs that were stored before them.

    >>> hazard(b'{"peft_type": "LORA", "exclude_modules": "(a+)+b"}')
    "exclude_modules has '(a+)+b', which PEFT might try for ever: it repeats a group"
    """
    if len(raw) > MAX_CONFIG_BYTES:
        return f"it is longer than {MAX_CONFIG_BYTES // 1024} KiB"
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(config, dict):
        return "it is not an object"
    for finding in examine(config):
        if finding.reason is Reason.PATTERN:
            return f"{finding.key} has {finding.pattern!a}, which PEFT might try for ever: {finding.why}"
        if finding.reason is Reason.RUNS and not says_nothing(finding.value):
            return f"{finding.key!a} can run code or look for files when it is loaded"
        # A pulled copy may name its base in any way that its reader wants; no library loads the base by that name.
        if finding.reason is Reason.VALUE and finding.path != ("base_model_name_or_path",):
            return f"{finding.key!a} is not {finding.wanted}"
    return None


def _examine(
    config: Mapping[str, Any], keys: Mapping[str, _Kind | Mapping[str, _Kind]], path: tuple[str, ...]
) -> Iterator[UnusableKey]:
    for key, value in config.items():
        where = (*path, key)
        known = keys.get(key)
        if key in DROPPED_KEYS:
            yield UnusableKey(where, Reason.RUNS, value, "left out")
        elif known is None:
            yield UnusableKey(where, Reason.UNKNOWN, value, "left out")
        elif value is None:
            continue
        elif isinstance(known, _Kind):
            if not known.fits(value):
                yield UnusableKey(where, Reason.VALUE, value, known.wanted)
        elif isinstance(value, dict):
            yield from _examine(value, known, where)
        elif value is not False:
            yield UnusableKey(where, Reason.VALUE, value, "an object")
