"""What a base consists of, and its fingerprint; registry, client and worker all compute it here.

The fingerprint is the SHA-256 over the canonical config (without `transformers_version` and `_name_or_path`), the
SHA-256 of each tokenizer file, the chat template among them, and the SHA-256 of the weight files, sorted. So a config
and these digests prove the fingerprint; the weights need not be read again.

>>> files = {"config.json": "c" * 64, "model.safetensors": "d" * 64}
>>> identity = identify({"model_type": "llama", "transformers_version": "5.0"}, files)
>>> identity == identify({"model_type": "llama", "_name_or_path": "/home/me"}, files)
True
>>> identity.architecture
'llama'
>>> is_buffer("h.0.attn.bias", [1, 1, 1024, 1024]), is_buffer("h.0.attn.c_attn.bias", [2304])
(True, False)
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sdk.formats.adapter_files import TEMPLATE_FILE, VOCABULARY_FILES, WEIGHTS_FILE
from sdk.formats.canonical_json import digest_of

#: Models' names for their input embeddings, and for their output head, which has as many numbers.
INPUT_EMBEDDINGS = ("embed_tokens", "embed_in", "tok_embeddings", "word_embeddings", "wte")
HEADS = ("lm_head", "embed_out")

CONFIG_FILE = "config.json"
#: The model card.
CARD_FILE = "README.md"
INDEX_FILE = "model.safetensors.index.json"
#: The name of a model's only weight file: transformers prefers it to an index.
SINGLE_FILE = "model.safetensors"
#: Files that define how text becomes tokens.
TOKENIZER_FILES = (*VOCABULARY_FILES, TEMPLATE_FILE, "chat_template.json")
#: Everything else that a base may have besides its weights.
OTHER_FILES = (CONFIG_FILE, "generation_config.json", INDEX_FILE)

_AFTER_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
)
_UNSTABLE_CONFIG_KEYS = ("transformers_version", "_name_or_path")
_WEIGHT_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,187}\.safetensors")
#: A larger config is not a model's; transformers' own are a few kilobytes.
MAX_CONFIG_BYTES = 1024 * 1024
#: The largest published models have some 200.
MAX_WEIGHT_FILES = 1000
#: The index of the largest published mixtures of experts has a line for each of 140,000 tensors.
MAX_INDEX_BYTES = 24 * 1024 * 1024
_MAX_DEPTH = 64


class BadBaseError(ValueError):
    """A base's files contradict each other, or don't belong to a base. The message is for people."""


class BaseIdentity(NamedTuple):
    """What a base's small files and the digests of its weights prove."""

    fingerprint: str
    #: SHA-256 over the weight files' digests alone: another tokenizer or template doesn't change it.
    weights_digest: str
    architecture: str


def identify(config: Mapping[str, Any], files: Mapping[str, str]) -> BaseIdentity:
    """Return what a config and the SHA-256 of each file, by its name, prove about a base.

    Raises BadBaseError if there are no weights, or the config can't be written canonically.
    """
    weights = sorted(files[name] for name in weight_files(files))
    if not weights:
        raise BadBaseError("a base needs its weights in *.safetensors files")
    stable = stable_config(config)
    tokenizer = _tokenizer_files(files)
    try:
        fingerprint = digest_of({"config": stable, "tokenizer": tokenizer, "weights": weights})
    except ValueError as error:
        raise BadBaseError(f"{CONFIG_FILE} has NaN, an infinity or half a surrogate pair") from error
    return BaseIdentity(fingerprint, digest_of(weights), _architecture(config))


def tokenizer_digest(files: Mapping[str, str]) -> str:
    """Return the SHA-256 over the digests of a base's tokenizer files, given those of all its files by name."""
    return digest_of(_tokenizer_files(files))


def _tokenizer_files(files: Mapping[str, str]) -> dict[str, str]:
    return {name: files[name] for name in TOKENIZER_FILES if name in files}


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Return the length in tokens of the longest row that a base has positions for, from its config; None if it has no
    positions.

    >>> positions_of({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1})
    512
    """
    inner = config.get("text_config")
    for given in (config, inner if isinstance(inner, Mapping) else {}):
        found = given.get("max_position_embeddings") or given.get("n_positions")
        if type(found) is int and found > 0:
            pad = given.get("pad_token_id")
            # In these models, positions start after the number of the padding token.
            skipped = pad + 1 if given.get("model_type") in _AFTER_PADDING and type(pad) is int else 0
            return max(1, found - skipped)
    return None


def stable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint covers of a config: not its author's path, nor the release that saved it."""
    return {key: value for key, value in config.items() if key not in _UNSTABLE_CONFIG_KEYS}


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else config.get("model_type", "")
    return str(architecture)[:200]


def weight_files(names: Collection[str]) -> list[str]:
    """Those of a base's files that hold weights, sorted."""
    return sorted(name for name in names if name.endswith(".safetensors"))


def check_files(names: Collection[str]) -> None:
    """Raise BadBaseError unless these are all files of a base, including the config and weights."""
    for name in sorted(names):
        if name == WEIGHTS_FILE or name.startswith("adapter_"):
            raise BadBaseError(f"{name} is an adapter's file; a library would load it on top of the base")
        if name not in TOKENIZER_FILES and name not in OTHER_FILES and not _WEIGHT_FILE.fullmatch(name):
            raise BadBaseError(
                f"{name[:80]!a} is not a file of a base: a base has only its config, tokenizer and weights"
            )
    if CONFIG_FILE not in names:
        raise BadBaseError(f"a base needs its {CONFIG_FILE}")
    weights = weight_files(names)
    if not weights:
        raise BadBaseError("a base needs its weights in *.safetensors files")
    if len(weights) > MAX_WEIGHT_FILES:
        raise BadBaseError(
            f"the weights are in {len(weights)} files; a base may have at most {MAX_WEIGHT_FILES}, so save it in larger ones"
        )
    if INDEX_FILE in names and SINGLE_FILE in weights and len(weights) > 1:
        raise BadBaseError(
            f"there is {SINGLE_FILE} and an index of other files, so different programs would load different weights"
        )
    if INDEX_FILE not in names and weights != [SINGLE_FILE]:
        raise BadBaseError(f"the weights are in {weights[0][:80]} but no {INDEX_FILE} says so")


def check_index(index: Any, tensors_by_file: Mapping[str, Collection[str]]) -> None:
    """Raise BadBaseError unless an index agrees with the weight files' headers about each tensor.

    `tensors_by_file` are the names of the tensors in each weight file.
    """
    where = weight_map(index)
    held: dict[str, str] = {}
    for file, tensors in tensors_by_file.items():
        for tensor in tensors:
            if held.setdefault(tensor, file) != file:
                raise BadBaseError(f"the tensor {tensor[:80]!a} is in {held[tensor][:80]} and in {file[:80]}")
    if where != held:
        differing = sorted(name for name in {*where, *held} if where.get(name) != held.get(name))
        raise BadBaseError(f"{INDEX_FILE} and the weight files disagree on the tensor {differing[0][:80]!a}")


def weight_map(index: Any) -> dict[str, str]:
    """Return the name of each tensor's weight file, from an index. Raises BadBaseError."""
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict) or not found or not all(type(name) is str for name in found.values()):
        raise BadBaseError(f"{INDEX_FILE} has no weight_map")
    for name in found.values():
        if not _WEIGHT_FILE.fullmatch(name) or name == WEIGHTS_FILE:
            raise BadBaseError(f"{INDEX_FILE} names {name[:80]!a}, which is not a weight file")
    return found


def read_index(raw: bytes) -> Any:
    """Return the JSON value of an index. Raises BadBaseError."""
    return _parsed(raw, INDEX_FILE, MAX_INDEX_BYTES)


def read_config(raw: bytes) -> dict[str, Any]:
    """Return the object in a `config.json`. Raises BadBaseError if it isn't one, or can't be stored and sent again."""
    config = _parsed(raw, CONFIG_FILE, MAX_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise BadBaseError(f"{CONFIG_FILE} is not an object")
    try:
        # An escape may stand for half a surrogate pair, which can't be encoded in UTF-8.
        json.dumps(config, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError as error:
        raise BadBaseError(f"{CONFIG_FILE} has half a surrogate pair, or an invalid number") from error
    if _unfit(config, _MAX_DEPTH):
        raise BadBaseError(f"{CONFIG_FILE} has the character NUL, or is nested more than {_MAX_DEPTH} deep")
    return config


def _parsed(raw: bytes, name: str, most_bytes: int) -> Any:
    if len(raw) > most_bytes:
        raise BadBaseError(f"{name} is longer than {most_bytes // 1024} KiB")
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadBaseError(f"{name} is not JSON, or has a key twice") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _unfit(value: Any, depth: int) -> bool:
    """Whether a value is nested deeper, or contains a NUL, which PostgreSQL can't store in text."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return depth == 0 or any("\0" in key or _unfit(item, depth - 1) for key, item in value.items())
    return isinstance(value, list) and (depth == 0 or any(_unfit(item, depth - 1) for item in value))


_COMPUTED = ("inv_freq", "masked_bias", "position_ids")


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor in a weight file is a buffer, not a parameter: a causal mask has four axes, a bias has one."""
    last = name.rpartition(".")[2]
    return last in _COMPUTED or (last == "bias" and len(shape) == 4)
