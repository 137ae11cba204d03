"""What a base is: its files, its fingerprint, its tensors' shapes, read from a folder without torch.

The fingerprint is the SHA-256 over the canonical config (without `transformers_version` and `_name_or_path`), the
tokenizer files, the chat template, and the weight files' own SHA-256. The weights' digest is kept apart.
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.cache import Cache
from sdk.config import user_path
from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.schemas.catalog import BaseRegistration
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.wire import digest_of
from sdk.transfer import OnBytes, read_json

#: Files that say how text becomes tokens.
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_OTHER_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
_UNSTABLE_CONFIG_KEYS = ("transformers_version", "_name_or_path")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")
_MAX_HEADER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ScannedBase:
    """A base in a folder."""

    folder: Path
    registration: BaseRegistration
    #: Path within the base to SHA-256 and size, of every file that belongs to it.
    files: dict[str, tuple[str, int]]

    def manifest(self) -> Manifest:
        """The manifest under which its files are uploaded."""
        return Manifest(
            kind="base",
            base_fingerprint=self.registration.fingerprint,
            files=[
                ManifestFile(path=path, size_bytes=size, sha256=sha256) for path, (sha256, size) in self.files.items()
            ],
        )


def base_id_of(folder: Path) -> str:
    """The id that a folder has where none is given: its own name, of the characters that ids have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:200].strip(".-_") or "base"


def scan_base(
    folder: Path,
    *,
    cache: Cache,
    base_id: str | None = None,
    revision: str | None = None,
    location: str | None = None,
    on_bytes: OnBytes | None = None,
) -> ScannedBase:
    """Describe the base in `folder`; its weights are hashed once and remembered.

    Raises NotFound where the folder or its config.json is missing, InvalidBase where there are no safetensors weights.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; check the path of the base", param="base")
    if base_id is not None and not _ID.fullmatch(base_id):
        raise InvalidInput(
            f"{base_id[:80]!a} can't be a base's id: use letters, digits, '.', '_', '-' and '/', beginning with a letter or digit",
            param="id",
        )
    config = _read_config(folder)
    weights = _weight_files(folder)
    names = [*TOKENIZER_FILES, *_OTHER_FILES, *weights]
    files = {
        name: (cache.sha256_of(path.absolute(), on_bytes), path.stat().st_size)
        for name in sorted(set(names))
        if (path := folder / name).is_file()
    }
    tensors: dict[str, list[int]] = {}
    for name in weights:
        tensors.update(_shapes(folder / name))
    stable = {key: value for key, value in config.items() if key not in _UNSTABLE_CONFIG_KEYS}
    weight_digests = {name: files[name][0] for name in weights}
    tokenizer = {name: files[name][0] for name in TOKENIZER_FILES if name in files}
    architectures = config.get("architectures")
    architecture = (
        architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type", "")
    )
    return ScannedBase(
        folder=folder,
        files=files,
        registration=BaseRegistration(
            id=base_id or base_id_of(folder),
            revision=revision,
            fingerprint=digest_of(
                {"config": stable, "tokenizer": tokenizer, "weights": sorted(weight_digests.values())}
            ),
            weights_digest=digest_of(sorted(weight_digests.values())),
            architecture=str(architecture)[:200],
            location=location or folder.resolve().as_uri(),
            config=config,
            tensors=tensors,
            size_bytes=sum(size for _, size in files.values()),
        ),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise NotFound(
            f"{folder} has no config.json, so it is no base; give the folder that save_pretrained wrote", param="base"
        )
    try:
        config = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidBase(f"{path} can't be read as JSON; download or save the base again", param="base") from error
    if not isinstance(config, dict):
        raise InvalidBase(f"{path} holds no object; download or save the base again", param="base")
    return config


def _weight_files(folder: Path) -> list[str]:
    """The safetensors files that hold the weights. Raises InvalidBase where there are none, or an index names one that is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(map(str, read_json(index)["weight_map"].values())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidBase(f"{index} can't be read; download or save the base again", param="base") from error
        missing = [name for name in names if not _FILE_NAME.fullmatch(name) or not (folder / name).is_file()]
        if missing or not names:
            raise InvalidBase(
                f"{folder} lacks the weight file {ascii(missing[0][:200]) if missing else 'of its index'}; download or save the base again",
                param="base",
            )
        return names
    names = sorted(path.name for path in folder.glob("*.safetensors") if path.name.startswith("model"))
    if not names:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f"only {pickled[0]}, which is pickled and is not read; save it again with safe_serialization=True"
            if pickled
            else "no model*.safetensors; give the folder that save_pretrained wrote"
        )
        raise InvalidBase(f"{folder} has no weights: {hint}", param="base")
    return names


def _shape(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise ValueError("a shape that is none")
    return value


def _shapes(path: Path) -> dict[str, list[int]]:
    """Tensor name to shape, from a safetensors header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            # A download that broke off is found here, and not by the job that reads the weights.
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if end != os.fstat(file.fileno()).st_size:
                raise ValueError("the file is shorter or longer than its header says")
        return {name: _shape(entry["shape"]) for name, entry in header.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        raise InvalidBase(
            f"{path} is no whole safetensors file; download or save the base again", param="base"
        ) from error
