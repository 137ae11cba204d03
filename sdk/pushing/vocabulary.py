"""Whether an adapter's folder has a tokenizer with tokens that its base's lacks, so that the version needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput
from sdk.formats.adapter_files import MAX_VOCABULARY_BYTES, VOCABULARY_FILES, base_parameter, lora_key, unwrapped
from sdk.formats.base_files import HEADS, INPUT_EMBEDDINGS, BadBaseError
from sdk.formats.base_references import REFERRING_FILES, check_references
from sdk.lora.tensors import read_tensors
from sdk.pulling.transfer import read_json, require_inside

_TOKENIZER_FILE = "tokenizer.json"
_TOKENS = ".trainable_tokens_delta"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of a tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def needed_files(folder: Path, base: Path | None, weights: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of the tokenizer in an adapter's folder if it has tokens that the base's lacks, or has by another id.

    `base` is the folder of the base; without one, or if the vocabularies can't be compared, they are needed by an adapter
    whose weights have embeddings. Raises InvalidInput for links that lead out of the folder, and files that refer to
    others, or are too long.
    """
    files = {name: path for name in VOCABULARY_FILES if (path := require_inside(folder, name)).is_file()}
    if not files or not _is_needed(folder, base, weights):
        return
    for name, path in files.items():
        _require_fit(name, path)
        yield name, path


def _is_needed(folder: Path, base: Path | None, weights: Path) -> bool:
    ours, theirs = _vocabulary(folder), None if base is None else _vocabulary(base)
    if ours is None or theirs is None:
        return any(_is_of_embeddings(name) for name in read_tensors(weights))
    return any(theirs.get(token) != number for token, number in ours.items())


def _is_of_embeddings(name: str) -> bool:
    """Whether a tensor is of an embedding or a head: whole, adapted, or rows of it."""
    key, parameter = lora_key(name), unwrapped(base_parameter(name) or "")
    module = parameter.rpartition(".")[0] if key is None else key.module
    return parameter.endswith(_TOKENS) or module.rpartition(".")[2] in (*INPUT_EMBEDDINGS, *HEADS)


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Return a tokenizer's tokens with their ids; None if no file says both."""
    path = require_inside(folder, _TOKENIZER_FILE)
    if not path.is_file() or path.stat().st_size > MAX_VOCABULARY_BYTES:
        return None
    try:
        said = read_json(path)
        return {**_listed(said["model"]["vocab"]), **{each["content"]: each["id"] for each in said["added_tokens"]}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _listed(vocabulary: Any) -> dict[str, int]:
    """Return tokens with their ids: a Unigram model lists tokens with their scores, in the order of the ids."""
    if isinstance(vocabulary, list):
        return {token: number for number, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary.items())


def _require_fit(name: str, path: Path) -> None:
    """Raise InvalidInput for a file that no version can have."""
    size = path.stat().st_size
    if size > MAX_VOCABULARY_BYTES:
        raise InvalidInput(
            f"{path} has {size / 1e6:.0f} MB, and a tokenizer's file at most {MAX_VOCABULARY_BYTES / 1e6:.0f}; push without it",
            param="path",
        )
    if name in REFERRING_FILES:
        try:
            check_references(name, path.read_bytes())
        except BadBaseError as error:
            raise InvalidInput(f"the adapter's tokenizer can't be taken: {error}", param="path") from error
    if name.endswith(".json"):
        try:
            read_json(path)
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{path} is not JSON; save the tokenizer again", param="path") from error
