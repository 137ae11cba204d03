"""From a PEFT folder to the parts of a version: a canonical config, the weights, a manifest, a LoRA record."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput, NotFound
from sdk.formats.adapter_files import (
    CONFIG_FILE,
    MAX_SERVING_BYTES,
    SERVING_FILES,
    TEMPLATE_FILE,
    VOCABULARY_FILES,
    WEIGHTS_FILE,
)
from sdk.formats.peft_config import MAX_CONFIG_BYTES, Reason, examine, names_place, says_nothing
from sdk.formats.peft_patterns import unfit
from sdk.formats.peft_unusable import unusable
from sdk.lora.adapter_config import canonical_text, lora_of
from sdk.pulling.folder import own_config
from sdk.pulling.transfer import hash_file, read_json, require_inside
from sdk.pushing.expand_patterns import adapted_modules, expand, expressions_of, matches
from sdk.pushing.vocabulary import needed_files
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.manifest import Manifest, ManifestFile

#: Weights as PEFT wrote them before safetensors: reading them can run any code in them.
_PICKLED = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")

_TOKENIZER_CONFIG = "tokenizer_config.json"
#: With thousands of added tokens, the file has some megabytes.
_MAX_TOKENIZER_CONFIG_BYTES = 16 * 1024 * 1024

#: `name` or `owner/name`, as a model hub spells it; a folder's path has more parts, or begins differently.
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Package:
    """An adapter that is ready to be sent."""

    manifest: Manifest
    lora: LoraConfig
    #: The local file with each SHA-256.
    sources: dict[str, Path]
    #: Files of the folder that a version doesn't need, and config keys that were dropped.
    left_out: list[str]
    #: What neither the config nor the caller states: "base_revision".
    unknown: list[str]
    #: The base's name on a model hub, if the config gives one rather than a path on the training machine.
    named_base: str | None
    #: Config keys whose expressions were replaced with names.
    expanded: list[str] = field(default_factory=list)


def pack_adapter(
    folder: Path,
    *,
    base_id: str,
    base_revision: str | None,
    base_fingerprint: str,
    staging: Path,
    expand_patterns: bool = False,
    base_folder: Path | None = None,
) -> Package:
    """Read a folder that PEFT's save_pretrained wrote; the canonical config is written into `staging`.

    With `expand_patterns`, expressions are replaced with the names of the adapter's modules that they match. A tokenizer
    is taken if it has tokens that the one in `base_folder` lacks.
    Raises NotFound for a missing folder or file, InvalidInput for pickled weights, a link that leads out of the
    folder, a config that is not a LoRA, or one with expressions that PEFT might try for ever.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; give the one that PEFT's save_pretrained wrote", param="path")
    weights = require_inside(folder, WEIGHTS_FILE)
    if not weights.is_file():
        if pickled := pickled_weights(folder):
            raise InvalidInput(
                f"{pickled} is pickled and can run code when it is loaded; convert it, in a child process that runs no code "
                f"from it, with: adapterctl convert {shlex.quote(str(folder))}",
                param="path",
            )
        raise NotFound(
            f"{folder} has no {WEIGHTS_FILE}; give the folder that PEFT's save_pretrained wrote", param="path"
        )
    config = own_config(folder, _read_config(require_inside(folder, CONFIG_FILE)))
    named_base = _hub_name(config.get("base_model_name_or_path"))
    revision = config.get("revision") or base_revision
    config, dropped = _cleaned({**config, "base_model_name_or_path": named_base or base_id, "revision": revision})
    expanded = expressions_of(config) if expand_patterns else []
    if expanded:
        config = expand(config, adapted_modules(weights))
    _refuse_patterns(config, weights)
    if why := unusable(config):
        raise InvalidInput(f"{CONFIG_FILE}: {why}", param="path")
    lora = lora_of(config)
    canonical = staging / CONFIG_FILE
    canonical.write_text(canonical_text(config), encoding="utf-8")
    files = []
    sources = {}
    for name, path in (
        (CONFIG_FILE, canonical),
        (WEIGHTS_FILE, weights),
        *_serving_files(folder, staging),
        *needed_files(folder, base_folder, weights),
    ):
        sha256, size = hash_file(path)
        files.append(ManifestFile(path=name, size_bytes=size, sha256=sha256))
        sources[sha256] = path
    taken = {".adapterctl", *(file.path for file in files)}
    others = sorted(path.name for path in folder.iterdir() if path.name not in taken)
    manifest = Manifest(kind="adapter", base_fingerprint=base_fingerprint, files=files)
    return Package(
        manifest=manifest,
        lora=lora,
        sources=sources,
        left_out=[*others, *(f"{CONFIG_FILE}: {key}" for key in dropped)],
        unknown=[] if config.get("revision") else ["base_revision"],
        named_base=named_base,
        expanded=expanded,
    )


def _serving_files(folder: Path, staging: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files beside an adapter that are used for serving; a chat template may be in the tokenizer's config.

    Raises InvalidInput for a link that leads out of the folder.
    """
    for name in SERVING_FILES:
        if name in VOCABULARY_FILES:
            continue
        path = require_inside(folder, name)
        if name == TEMPLATE_FILE and not path.is_file() and (template := template_in_config(folder)):
            path = staging / name
            path.write_bytes(template.encode())
        if path.is_file() and path.stat().st_size <= MAX_SERVING_BYTES:
            yield name, path


def template_in_config(folder: Path) -> str | None:
    """Return the chat template of a tokenizer's config, as older releases of transformers save it."""
    path = require_inside(folder, _TOKENIZER_CONFIG)
    if not path.is_file() or path.stat().st_size > _MAX_TOKENIZER_CONFIG_BYTES:
        return None
    try:
        found = read_json(path).get("chat_template")
        return found if isinstance(found, str) and found.encode() else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def pickled_weights(folder: Path) -> Path | None:
    """Return a folder's file of pickled weights, if it has one."""
    return next((folder / name for name in _PICKLED if (folder / name).is_file()), None)


def read_origin(folder: Path) -> tuple[str | None, str | None]:
    """Return the base that a folder's config names, if it is not a path, and its revision.

    Raises NotFound, InvalidInput.
    """
    config = own_config(folder, _read_config(require_inside(folder, CONFIG_FILE)))
    revision = config.get("revision")
    return _hub_name(config.get("base_model_name_or_path")), revision if isinstance(revision, str) else None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"there is no {path}; give the folder that PEFT's save_pretrained wrote", param="path")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidInput(
            f"{path} is longer than {MAX_CONFIG_BYTES // 1024} KiB, too long for a LoRA configuration; save the adapter again",
            param="path",
        )
    try:
        config = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON; save the adapter again", param="path") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidInput(f"{path} does not describe a LoRA adapter; only LoRA adapters are kept here", param="path")
    return config


def _cleaned(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the part of a config that may be published, and the keys that were dropped, by dotted names.

    Keys are dropped if they import, fetch or run something, name a file of this machine, or are unknown and
    empty. Raises InvalidInput for the rest: an unknown setting, or a value of another kind than PEFT writes.
    """
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    dropped = []
    for finding in list(examine(config)):
        if finding.reason is Reason.UNKNOWN and not says_nothing(finding.value):
            raise InvalidInput(
                f"{CONFIG_FILE} has {finding.key!a}, which is not a LoRA setting of any PEFT release known here; "
                "remove it from the file, or upgrade adapterctl if your PEFT is newer, then push again",
                param="path",
            )
        if finding.reason is Reason.VALUE and not names_place(finding.value):
            raise InvalidInput(
                f"{CONFIG_FILE} is not as PEFT writes it ({finding.key} must be {finding.wanted}); save the adapter again",
                param="path",
            )
        if finding.reason is Reason.PATTERN:
            # It may still be replaced with names.
            continue
        inner = kept
        for part in finding.path[:-1]:
            inner = inner[part]
        del inner[finding.path[-1]]
        if finding.reason is not Reason.RUNS or finding.value is not None:
            dropped.append(finding.key)
    return kept, sorted(dropped)


def _refuse_patterns(config: dict[str, Any], weights: Path) -> None:
    """Raise InvalidInput for an expression that a version's config can't have.

    The message says which of the adapter's modules it matches.
    """
    targets = config.get("target_modules")
    if isinstance(targets, str):
        raise InvalidInput(
            f"{CONFIG_FILE} gives target_modules as a pattern, {targets[:80]!a}; {_meant('target_modules', targets, weights)}. "
            "Push with --expand-patterns, which writes out the names of all of them",
            param="target_modules",
        )
    for key, pattern, why in unfit(config):
        raise InvalidInput(
            f"{CONFIG_FILE}: {key} has the pattern {pattern[:80]!a}, which PEFT might try for ever, since {why}; "
            f"{_meant(key, pattern, weights)}. Push with --expand-patterns, which replaces it with names",
            param=key,
        )


def _meant(key: str, pattern: str, weights: Path) -> str:
    return matches(key, pattern, adapted_modules(weights))


def _hub_name(named: Any) -> str | None:
    return named if isinstance(named, str) and _HUB_NAME.fullmatch(named) and ".." not in named else None
