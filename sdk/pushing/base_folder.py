"""What a base is: its files, its fingerprint, its tensors' shapes, read from a folder without torch.

`sdk.formats.base_files` says how the fingerprint is computed from them, and which files a base has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sdk.config import user_path
from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.formats.base_files import (
    CONFIG_FILE,
    INDEX_FILE,
    OTHER_FILES,
    SINGLE_FILE,
    TOKENIZER_FILES,
    BadBaseError,
    check_files,
    check_index,
    identify,
    read_config,
    read_index,
    weight_map,
)
from sdk.formats.base_references import REFERRING_FILES, check_references
from sdk.formats.packed_weights import (
    WeightFile,
    check_packing,
    read_states,
    read_weights,
    require_few_states,
    shapes_of,
)
from sdk.formats.safetensors import SafetensorsError, read_header
from sdk.lora.planning.config_faults import config_fault
from sdk.pulling.cache import Cache
from sdk.pulling.transfer import OnBytes
from sdk.schemas.catalog import BaseRegistration
from sdk.schemas.manifest import Manifest, ManifestFile

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True)
class ScannedBase:
    """A base in a folder."""

    folder: Path
    #: With the manifest of exactly the files that were hashed, which proves the fingerprint.
    registration: BaseRegistration

    @property
    def manifest(self) -> Manifest:
        """Exactly the files that belong to the base; anything else in the folder is never loaded."""
        assert self.registration.manifest is not None
        return self.registration.manifest


def base_id_of(folder: Path) -> str:
    """The default id for a folder: its own name, limited to the characters that ids may have.

    In a hub's cache, a snapshot's folder is named by its commit, and the one two levels above it by the model.
    """
    name = folder.resolve().name
    if (model := _hub_model(folder)) is not None:
        return model
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:190].strip(".-_") or "base"
    # Hexadecimal digits alone would be taken for a fingerprint.
    return f"base-{plain}" if re.fullmatch(r"[0-9a-f]{12,}", plain) else plain


def _hub_model(folder: Path) -> str | None:
    """ORG/NAME of `…/models--ORG--NAME/snapshots/COMMIT`, or None for another folder."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 - where a link is, not where it leads
    kind, *parts = whole.parent.parent.name.split("--")
    model = "/".join(parts)
    return model if whole.parent.name == "snapshots" and kind == "models" and _ID.fullmatch(model) else None


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

    Raises NotFound if the folder or its config.json is missing, InvalidBase if there are no safetensors weights, or a
    file refers to something outside of the folder.
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
    if (fault := config_fault(config)) is not None:
        raise InvalidBase(
            f"{folder} is not a base: {CONFIG_FILE} {fault}; correct it, or download the base again", param="base"
        )
    weights = _weight_files(folder)
    names = {*TOKENIZER_FILES, *OTHER_FILES, *weights}
    present = sorted(name for name in names if (folder / name).is_file())
    held = {name: _look_into(folder / name) for name in weights}
    # By a link's target, so that a file is hashed once, whichever folder it is read through.
    digests = {name: cache.sha256_of((folder / name).resolve(), on_bytes) for name in present}
    try:
        check_files(present)
        for name in sorted(REFERRING_FILES.keys() & digests.keys()):
            check_references(name, _start(folder / name, REFERRING_FILES[name] + 1))
        if INDEX_FILE in digests:
            tensors_by_file = {name: file.shapes for name, file in held.items()}
            check_index(read_index((folder / INDEX_FILE).read_bytes()), tensors_by_file)
        require_few_states(held.values())
        tensors = shapes_of(held.values(), _read_states(folder, held))
        check_packing(config, tensors)
        identity = identify(config, digests)
    except BadBaseError as error:
        raise _damaged(f"{folder} is not a base: {error}") from error
    files = [
        ManifestFile(path=name, size_bytes=(folder / name).stat().st_size, sha256=sha256)
        for name, sha256 in digests.items()
    ]
    manifest = Manifest(kind="base", base_fingerprint=identity.fingerprint, files=files)
    return ScannedBase(
        folder=folder,
        registration=BaseRegistration(
            id=base_id or base_id_of(folder),
            revision=revision,
            fingerprint=identity.fingerprint,
            weights_digest=identity.weights_digest,
            architecture=identity.architecture,
            location=location or folder.resolve().as_uri(),
            config=config,
            tensors=tensors,
            size_bytes=manifest.size_bytes,
            manifest=manifest,
        ),
    )


def read_shapes(folder: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the config of the base in a folder, and its tensors' shapes from its weights' headers; {} without weights.

    Nothing is hashed. Raises NotFound, InvalidBase.
    """
    config = _read_config(folder)
    if not any(path.suffix == ".safetensors" for path in folder.iterdir()):
        return config, {}
    held = {name: _look_into(folder / name) for name in _weight_files(folder)}
    try:
        return config, shapes_of(held.values(), _read_states(folder, held))
    except BadBaseError as error:
        raise _damaged(f"{folder} is not a base: {error}") from error


def read_base_config(path: Path) -> dict[str, Any]:
    """Return what a `config.json` says. Raises InvalidBase."""
    try:
        return read_config(path.read_bytes())
    except (OSError, BadBaseError) as error:
        raise _damaged(f"{path} can't be read as a model's config ({error})") from error


def _damaged(what: str) -> InvalidBase:
    return InvalidBase(f"{what}; download or save the base again", param="base")


def _start(path: Path, size_bytes: int) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(size_bytes)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise NotFound(
            f"{folder} has no config.json, so it is not a base; give the folder that save_pretrained wrote",
            param="base",
        )
    return read_base_config(path)


def _weight_files(folder: Path) -> list[str]:
    """The safetensors files that hold the weights. Raises InvalidBase if there are none, or an index names one that
    is missing.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            names = sorted(set(weight_map(read_index(index.read_bytes())).values()))
        except (OSError, BadBaseError) as error:
            raise _damaged(f"{index} can't be read ({error})") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise _damaged(f"{folder} lacks the weight file {missing[0]} that its index names")
        if SINGLE_FILE not in names and (folder / SINGLE_FILE).is_file():
            raise InvalidBase(
                f"{folder} has {SINGLE_FILE} next to {INDEX_FILE}, which names other files, so different "
                f"programs would load different weights; remove one of the two",
                param="base",
            )
        return names
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    hint = (
        f"only {pickled[0]}, which is pickled and is never read; save it again with safe_serialization=True"
        if pickled
        else f"no {SINGLE_FILE} and no {INDEX_FILE}; give the folder that save_pretrained wrote"
    )
    raise InvalidBase(f"{folder} has no weights: {hint}", param="base")


def _look_into(path: Path) -> WeightFile:
    """What the header of a weight file says. An incomplete download is found here rather than by the job."""
    try:
        with path.open("rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size, called="it", any_dtype=True)
        return read_weights(header)
    except BadBaseError as error:
        raise _damaged(f"{path} holds no base weights: {error}") from error
    except (OSError, SafetensorsError) as error:
        reason = error.reason if isinstance(error, SafetensorsError) else error.strerror
        raise _damaged(f"{path} is not a complete safetensors file ({reason})") from error


def _read_states(folder: Path, held: Mapping[str, WeightFile]) -> dict[str, list[int]]:
    """Return the stated shape of each packed weight. Raises BadBaseError, InvalidBase."""
    said: dict[str, list[int]] = {}
    for name in sorted(name for name, weights in held.items() if weights.states):
        try:
            with (folder / name).open("rb") as file:

                def read(begin: int, end: int, file: IO[bytes] = file) -> bytes:
                    file.seek(begin)
                    return file.read(end - begin)

                said |= read_states(held[name], read)
        except OSError as error:
            raise _damaged(f"{folder / name} can't be read ({error.strerror})") from error
    return said
